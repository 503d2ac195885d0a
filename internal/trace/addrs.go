package trace

import (
	"encoding/json"
	"net/netip"
)

// Addrs are addresses of which there may be none: their JSON is an array then too, and
// not null, which is what is not known. Absent addresses are read as none.
type Addrs []netip.AddrPort

// MarshalJSON writes an array.
func (a Addrs) MarshalJSON() ([]byte, error) {
	if a == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]netip.AddrPort(a))
}

// UnmarshalJSON reads what MarshalJSON wrote, and null, which was written before.
func (a *Addrs) UnmarshalJSON(b []byte) error {
	var list []netip.AddrPort
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*a = nil
	if len(list) > 0 {
		*a = list
	}
	return nil
}
