package trace

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
)

func TestAddrs(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.1:5000")
	for _, tt := range []struct {
		in   Addrs
		want string
	}{
		{nil, `[]`},
		{Addrs{}, `[]`},
		{Addrs{at}, `["192.0.2.1:5000"]`},
	} {
		b, err := json.Marshal(tt.in)
		if err != nil || string(b) != tt.want {
			t.Errorf("%#v: %s, %v, want %s", tt.in, b, err, tt.want)
		}
		var got Addrs
		if err := json.Unmarshal(b, &got); err != nil || !slices.Equal(got, tt.in) {
			t.Errorf("%s is read as %v, %v", b, got, err)
		}
	}
	got := Addrs{at}
	if err := json.Unmarshal([]byte(`null`), &got); err != nil || got != nil {
		t.Errorf("null is read as %v, %v", got, err)
	}
	if json.Unmarshal([]byte(`["nowhere"]`), &got) == nil {
		t.Error("nowhere is an address now")
	}
}
