package stunmsg

import (
	"fmt"

	"github.com/pion/stun/v2"
)

// ToPion decodes b into pion's type, for the places where pion's interfaces
// ask for it. It is the only way by which bytes from the network become one:
// pion must not see what [Check] refuses.
func ToPion(b []byte, in Ingress) (*stun.Message, error) {
	if err := Check(b, in); err != nil {
		return nil, err
	}
	m := new(stun.Message)
	if err := stun.Decode(b, m); err != nil { // copies b
		return nil, fmt.Errorf("decode checked STUN message: %w", err)
	}
	return m, nil
}
