package stunmsg

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/pion/stun/v2"
)

// FuzzCheck holds what the package promises: whatever Check accepts can be
// read, by us and by pion, from a buffer without a byte to spare.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{sampleRequest, sampleResponse4, sampleResponse6, sampleLongTerm} {
		f.Add(unhex(f, s))
	}
	f.Add(everything().Sign(key).Bytes())
	f.Add(rawMessage(ClassIndication, tlv(AttrXORPeerAddress)))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(bytes.Clone(b))
		err := Check(b, AsPeer)
		m, decodeErr := Decode(b)
		if err != decodeErr {
			t.Fatalf("Check = %v, Decode = %v", err, decodeErr)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("Check = %v, not ErrMalformed", err)
			}
			return
		}
		if (Check(b, AsClient) == nil) == (m.Class == ClassRequest) || (Check(b, AsServer) == nil) == m.Class.Response() {
			t.Fatalf("the ingress does not decide on a %v", m.Class)
		}
		readAll(m)
		p, err := ToPion(b, AsPeer)
		if err != nil {
			t.Fatalf("Check accepts, pion refuses: %v", err)
		}
		if len(p.Attributes) != len(m.attrs) {
			t.Fatalf("pion sees %d attributes, we %d", len(p.Attributes), len(m.attrs))
		}
		readAllPion(t, m, p)
	})
}

func readAll(m *Message) {
	m.Username()
	m.ErrorCode()
	m.ChangeRequest()
	m.Priority()
	m.IceControlled()
	m.IceControlling()
	m.ChannelNumber()
	m.Lifetime()
	m.RequestedTransport()
	m.XORMapped()
	m.XORRelayed()
	m.XORPeers()
	m.Mapped()
	m.OtherAddress()
	m.ResponseOrigin()
	m.AlternateServer()
}

// readAllPion runs the getters that ice and turn use, on attributes without
// spare capacity, and compares what matters with ours.
func readAllPion(t *testing.T, m *Message, p *stun.Message) {
	p.Raw = slices.Clip(p.Raw)
	for i := range p.Attributes {
		p.Attributes[i].Value = slices.Clip(bytes.Clone(p.Attributes[i].Value))
	}
	for _, at := range []AttrType{AttrXORMappedAddress, AttrXORPeerAddress, AttrXORRelayedAddress} {
		if at == AttrXORMappedAddress && m.Has(AttrOldXORMappedAddress) {
			continue // pion reads whichever comes first
		}
		var a stun.XORMappedAddress
		err := a.GetFromAs(p, stun.AttrType(at))
		ours, ok := m.xored(at)
		if (err == nil) != ok {
			t.Fatalf("attribute %v: pion %v, ours %v", at, err, ok)
		}
		if ok && (!a.IP.Equal(ours.Addr().AsSlice()) || a.Port != int(ours.Port())) {
			t.Fatalf("attribute %v: pion reads %v, we %v", at, a, ours)
		}
	}
	var (
		mapped    stun.MappedAddress
		other     stun.OtherAddress
		origin    stun.ResponseOrigin
		alternate stun.AlternateServer
		code      stun.ErrorCodeAttribute
		username  stun.Username
	)
	for _, g := range []stun.Getter{&mapped, &other, &origin, &alternate, &code, &username} {
		if err := g.GetFrom(p); err != nil && !errors.Is(err, stun.ErrAttributeNotFound) {
			t.Fatalf("pion cannot read %T: %v", g, err)
		}
	}
	if ours := m.Verify(key); m.Has(AttrMessageIntegrity) {
		if err := stun.MessageIntegrity(key).Check(p); (err == nil) != (ours == nil) {
			t.Fatalf("integrity: pion %v, ours %v", err, ours)
		}
	}
}

// FuzzFramer checks that a stream is cut into the same frames however it
// arrives, without a byte lost but those of frames that are too long, and that
// cutting it ends.
func FuzzFramer(f *testing.F) {
	all, _ := stream()
	f.Add(all, byte(1))
	f.Add([]byte{0x40, 0, 0xFF, 0xFC, 0, 0, 0, 0, 0}, byte(3))
	long := AppendChannelData(nil, 0x4000, zeros(MaxFrame), true)
	f.Add(slices.Concat(all, long, all, rawMessage(ClassSuccess), long, all), byte(7))
	f.Fuzz(func(t *testing.T, b []byte, chunk byte) {
		once, skipped, err := framesAndSkipped(NewFramer(bytes.NewReader(b)))
		if !errors.Is(err, ErrFraming) && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("ended with %v", err)
		}
		checkCut(t, b, once, skipped, err)
		for _, frame := range once {
			if len(frame) == 0 || len(frame) > MaxFrame || len(frame)%4 != 0 {
				t.Fatalf("frame of %d bytes", len(frame))
			}
			if !Is(frame) && !IsChannelData(frame) {
				t.Fatalf("frame %x is neither", frame)
			}
		}
		again, againSkipped, againErr := framesAndSkipped(NewFramer(&chunks{r: bytes.NewReader(b), n: 1 + int(chunk)}))
		if !slices.EqualFunc(once, again, bytes.Equal) || skipped != againSkipped || (errors.Is(err, ErrFraming)) != errors.Is(againErr, ErrFraming) {
			t.Fatalf("in chunks of %d: %d frames, %v; at once: %d, %v", 1+int(chunk), len(again), againErr, len(once), err)
		}
	})
}

// checkCut walks over the stream b by the lengths in it: each frame is where it
// should be, and what is left out is too long. err is how it ended.
func checkCut(t *testing.T, b []byte, frames [][]byte, skipped int, err error) {
	left := b
	for len(left) >= 4 && len(frames)+skipped > 0 {
		n := int(left[2])<<8 | int(left[3])
		if left[0] <= 3 {
			n += 20
		} else {
			n += 4 + (4-n%4)%4
		}
		switch {
		case n > MaxFrame:
			skipped--
		case len(frames) == 0 || !bytes.HasPrefix(left, frames[0]) || len(frames[0]) != n:
			t.Fatalf("frames %x, %d skipped: not what follows in the stream %x", frames, skipped, left)
		default:
			frames = frames[1:]
		}
		if n > len(left) && err == io.EOF {
			t.Fatalf("%d bytes of the last frame %x missing", n-len(left), left)
		}
		left = left[min(n, len(left)):]
	}
	if len(frames) > 0 || skipped != 0 || err == io.EOF && len(left) > 0 {
		t.Fatalf("%d frames, %d skipped and %d bytes are left of %x", len(frames), skipped, len(left), b)
	}
}
