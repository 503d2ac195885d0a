package identity

import "bytes"

// The pairing messages as bytes. Parsing checks shape alone: lengths,
// versions, nothing left over. What a message means is pairing.go's affair.

// PairingVersion is the version of the pairing protocol, frozen with the message
// table of the package comment: whatever changes there changes this string.
const PairingVersion = pairingName + "2"

// pairingName begins the version of every pairing protocol there will be.
const pairingName = "p2pagent-pair/"

// MaxPairingMessage is the size of the longest pairing message.
const MaxPairingMessage = 512

const (
	typeHello  = 0x01
	typeShare  = 0x02
	typeProof  = 0x03
	typeAccept = 0x04
	typeReject = 0x05
	typeStored = 0x06
)

const (
	reasonVersion = 1
	reasonCode    = 2
)

const (
	nonceSize = 16
	tagSize   = 64
)

type helloMsg struct{ nonce []byte }

type shareMsg struct{ nonce, y, ad []byte }

type proofMsg struct{ y, ad, box, tag []byte }

type acceptMsg struct{ box, tag []byte }

type storedMsg struct{ box []byte }

func message(kind byte, fields ...[]byte) []byte {
	return append([]byte{kind}, lv(fields...)...)
}

func (m helloMsg) encode() []byte {
	return message(typeHello, []byte(PairingVersion), m.nonce)
}

func (m shareMsg) encode() []byte {
	return message(typeShare, []byte(PairingVersion), m.nonce, m.y, m.ad)
}

func (m proofMsg) encode() []byte {
	return message(typeProof, m.y, m.ad, m.box, m.tag)
}

func (m acceptMsg) encode() []byte {
	return message(typeAccept, m.box, m.tag)
}

func (m storedMsg) encode() []byte {
	return message(typeStored, m.box)
}

func rejectMsg(reason byte) []byte {
	return message(typeReject, []byte(PairingVersion), []byte{reason})
}

// open checks the size and type of a message and returns a reader of its fields.
func open(in []byte) (kind byte, r *reader, err error) {
	switch {
	case len(in) == 0:
		return 0, nil, badMessage("it is empty")
	case len(in) > MaxPairingMessage:
		return 0, nil, badMessage("%d bytes, at most %d are possible", len(in), MaxPairingMessage)
	}
	return in[0], &reader{b: in[1:]}, nil
}

// maxVersion is the longest version string that is worth showing.
const maxVersion = 32

// version takes the version field and compares it. Whatever follows another
// version is another version's business.
func version(r *reader) error {
	v := r.field()
	switch {
	case r.err != nil:
		return badMessage("version: %w", r.err)
	case len(v) == 0 || len(v) > maxVersion:
		return badMessage("version: %w", errLength)
	case !bytes.HasPrefix(v, []byte(pairingName)):
		return badMessage("not a pairing of this program")
	case string(v) != PairingVersion:
		return ErrVersion{Ours: PairingVersion, Theirs: string(v)}
	}
	return nil
}

func parseHello(r *reader) (m helloMsg, err error) {
	if err := version(r); err != nil {
		return m, err
	}
	m.nonce = r.fixed(nonceSize)
	return m, ended(r, "hello")
}

func parseShare(r *reader) (m shareMsg, err error) {
	if err := version(r); err != nil {
		return m, err
	}
	m.nonce, m.y, m.ad = r.fixed(nonceSize), r.fixed(pointSize), r.field()
	return m, ended(r, "share")
}

func parseProof(r *reader) (m proofMsg, err error) {
	m.y, m.ad, m.box, m.tag = r.fixed(pointSize), r.field(), r.field(), r.fixed(tagSize)
	return m, ended(r, "proof")
}

func parseAccept(r *reader) (m acceptMsg, err error) {
	m.box, m.tag = r.field(), r.fixed(tagSize)
	return m, ended(r, "accept")
}

func parseStored(r *reader) (m storedMsg, err error) {
	m.box = r.field()
	return m, ended(r, "stored")
}

func parseReject(r *reader) (reason byte, err error) {
	if err := version(r); err != nil {
		return 0, err
	}
	f := r.fixed(1)
	if err := ended(r, "reject"); err != nil {
		return 0, err
	}
	return f[0], nil
}

func ended(r *reader, what string) error {
	if err := r.end(); err != nil {
		return badMessage("%s: %w", what, err)
	}
	return nil
}

// associatedData is AD: who speaks, in which role and version.
func associatedData(role Role, f Fingerprint) []byte {
	return lv([]byte(role.String()), []byte(PairingVersion), f[:])
}

// parseAssociatedData returns the fingerprint in ad, which must be of that role.
func parseAssociatedData(ad []byte, role Role) (Fingerprint, error) {
	r := &reader{b: ad}
	theirRole := r.field()
	if r.err == nil && string(theirRole) != role.String() {
		return Fingerprint{}, badMessage("associated data of another role than %s", role)
	}
	if err := version(r); err != nil {
		return Fingerprint{}, err
	}
	var f Fingerprint
	copy(f[:], r.fixed(len(f)))
	if err := ended(r, "associated data"); err != nil {
		return Fingerprint{}, err
	}
	if f.IsZero() {
		return Fingerprint{}, badMessage("associated data without a fingerprint")
	}
	return f, nil
}
