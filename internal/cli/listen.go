package cli

import "errors"

// InUse reports a port that could not be opened because somebody has it.
func InUse(err error) bool { return errors.Is(err, errInUse) }

// NoAddress reports an address that could not be listened on because this machine
// does not have it, or not its family.
func NoAddress(err error) bool { return errors.Is(err, errNoAddress) || errors.Is(err, errNoFamily) }

// ListenAdvice says what can be done about a port that could not be opened; empty
// for an error that says it by itself.
func ListenAdvice(err error, port int) string {
	switch {
	case InUse(err):
		return "choose another port, or end the program that has it"
	case errors.Is(err, errDenied) && port < 1024:
		return "a port below 1024 needs root, or on Linux the capability CAP_NET_BIND_SERVICE: choose one from 1024 up"
	case NoAddress(err):
		return "this machine has no such address"
	}
	return ""
}
