package identity

import "fmt"

// A Role is which end of a pairing or meeting this machine is.
type Role uint8

// The listener made the code and waits; the connector typed it and begins.
const (
	Listener Role = iota + 1
	Connector
)

// String returns the role as it stands in the transcript.
func (r Role) String() string {
	switch r {
	case Listener:
		return "listener"
	case Connector:
		return "connector"
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// other returns the opposite role.
func (r Role) other() Role {
	if r == Listener {
		return Connector
	}
	return Listener
}
