package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// stun is a STUN message of these attributes, with a random transaction id.
func stun(kind uint16, attrs ...[]byte) []byte {
	body := bytes.Join(attrs, nil)
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, 0x21, 0x12, 0xa4, 0x42)
	id := make([]byte, 12)
	rand.Read(id)
	return append(append(b, id...), body...)
}

// attr is one attribute, padded.
func attr(kind uint16, value ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func binding() []byte { return stun(0x0001) }

// with puts bytes in the place of those at an offset.
func with(b []byte, at int, bytes ...byte) []byte {
	copy(b[at:], bytes)
	return b
}

// find returns the value of an attribute, nil when there is none.
func find(b []byte, kind uint16) []byte {
	for rest := b[min(20, len(b)):]; len(rest) >= 4; {
		n := int(binary.BigEndian.Uint16(rest[2:]))
		end := 4 + n + -n&3
		if end > len(rest) {
			return nil
		}
		if binary.BigEndian.Uint16(rest) == kind {
			return rest[4 : 4+n]
		}
		rest = rest[end:]
	}
	return nil
}

// allocate makes an allocation at the server, with credentials in the REST
// form from its secret, as whoever was let in could.
func allocate(t *testing.T, w *world) net.Conn {
	t.Helper()
	secret, err := os.ReadFile(filepath.Join(w.home.dir, "state/p2pagent/turn-secret"))
	if err != nil {
		t.Fatal(err)
	}
	user := fmt.Sprintf("%d:mallory", time.Now().Add(time.Hour).Unix())
	mac := hmac.New(sha1.New, bytes.TrimSpace(secret))
	mac.Write([]byte(user))
	password := base64.StdEncoding.EncodeToString(mac.Sum(nil))

	c, err := net.Dial("udp4", w.turn.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	transport := attr(0x0019, 17, 0, 0, 0)
	challenge := ask(t, c, stun(0x0003, transport))
	realm, nonce := find(challenge, 0x0014), find(challenge, 0x0015)
	request := stun(0x0003, transport, attr(0x0006, []byte(user)...), attr(0x0014, realm...), attr(0x0015, nonce...))
	key := md5.Sum(fmt.Appendf(nil, "%s:%s:%s", user, realm, password))
	binary.BigEndian.PutUint16(request[2:], uint16(len(request)-20+24)) // as if the integrity were there
	mac = hmac.New(sha1.New, key[:])
	mac.Write(request)
	if answer := ask(t, c, append(request, attr(0x0008, mac.Sum(nil)...)...)); binary.BigEndian.Uint16(answer) != 0x0103 {
		t.Fatalf("allocate: %x", answer)
	}
	return c
}

// ask sends a request until it is answered.
func ask(t *testing.T, c net.Conn, request []byte) []byte {
	t.Helper()
	answer := make([]byte, 1500)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(answer); err == nil && n >= 20 && bytes.Equal(answer[8:20], request[8:20]) {
			return answer[:n]
		}
	}
	t.Fatalf("no answer from %s", c.RemoteAddr())
	return nil
}
