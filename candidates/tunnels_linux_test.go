package candidates

import (
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

func TestLinkKindTunnel(t *testing.T) {
	const ether, none = 1, 0xfffe
	for _, tt := range []struct {
		name  string
		link  linkKind
		pppoe bool
		want  bool
	}{
		{name: "ethernet", link: linkKind{hardware: ether}},
		{name: "container's", link: linkKind{ether, "veth"}},
		{name: "bridge", link: linkKind{ether, "bridge"}},
		{name: "vlan", link: linkKind{ether, "vlan"}},
		{name: "modem", link: linkKind{hardware: none}},
		{name: "modem behind a multiplexer", link: linkKind{519, "rmnet"}},
		{name: "wireguard", link: linkKind{none, "wireguard"}, want: true},
		{name: "tun", link: linkKind{none, "tun"}, want: true},
		{name: "tap", link: linkKind{ether, "tun"}, want: true},
		{name: "vxlan", link: linkKind{ether, "vxlan"}, want: true},
		{name: "ipip", link: linkKind{arphrdTunnel, "ipip"}, want: true},
		{name: "gre of an old kernel", link: linkKind{hardware: arphrdGRE}, want: true},
		{name: "pptp", link: linkKind{arphrdPPP, "ppp"}, want: true},
		{name: "dsl", link: linkKind{arphrdPPP, "ppp"}, pppoe: true},
		{name: "wireguard over dsl", link: linkKind{none, "wireguard"}, pppoe: true, want: true},
	} {
		if got := tt.link.tunnel(tt.pppoe); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestInfoKind(t *testing.T) {
	attr := func(typ uint16, value string) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
		return append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	kind := attr(iflaInfoKind, "wireguard\x00")
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"kind", kind, "wireguard"},
		{"kind without its end", attr(iflaInfoKind, "tun"), "tun"},
		{"behind another", append(attr(2, "12345"), kind...), "wireguard"},
		{"flags in the type", attr(iflaInfoKind|0x8000, "tun"), "tun"},
		{"none", attr(2, "12345"), ""},
		{"empty", nil, ""},
		{"cut off", kind[:8], ""},
		{"length of zero", make([]byte, 16), ""},
	} {
		if got := infoKind(tt.b); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestTunnelsOfTheKernel asks the kernel of interfaces that were made for it.
func TestTunnelsOfTheKernel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes a network namespace, and runs as root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("%v: apt-get install iproute2 (scripts/setup.sh test)", err)
	}
	skip := make(chan string, 1)
	go func() { // its thread ends with it, and the namespace with that
		defer close(skip)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			skip <- err.Error()
			return
		}
		ip := func(args ...string) bool {
			out, err := exec.Command("ip", args...).CombinedOutput()
			if err != nil {
				t.Logf("ip %v: %v %s", args, err, out)
			}
			return err == nil
		}
		if !ip("tuntap", "add", "dev", "office", "mode", "tun") || !ip("link", "add", "wg7", "type", "bridge") {
			skip <- "the kernel makes no such interfaces"
			return
		}
		ip("addr", "add", "10.99.0.1/24", "dev", "office")
		ip("addr", "add", "10.98.0.1/24", "dev", "wg7")
		for _, dev := range []string{"lo", "office", "wg7"} {
			ip("link", "set", dev, "up")
		}
		tunnels, err := LocalTunnels()
		if err != nil {
			t.Error(err)
		}
		for dst, want := range map[string]string{"10.99.0.2": "office", "10.98.0.2": "", "127.0.0.1": ""} {
			if got := tunnels.To(netip.MustParseAddr(dst)); got != want {
				t.Errorf("to %s by %q, want %q", dst, got, want)
			}
		}
	}()
	if why, ok := <-skip; ok {
		t.Skip(why)
	}
}
