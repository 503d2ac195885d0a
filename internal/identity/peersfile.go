package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// The file format of the known-peers store, apart from files and locks.

const (
	peersVersion  = 1
	maxPeersBytes = 1 << 20

	// maxPeers keeps the file below maxPeersBytes, names and all.
	maxPeers = 1000
)

type peersFile struct {
	Version int          `json:"version"`
	Peers   []peerRecord `json:"peers"`
}

// A peerRecord is a Peer with its secrets in the clear, as base64url. A program from
// before there were proposed ones refuses a file with one in it.
type peerRecord struct {
	Name        string      `json:"name"`
	Fingerprint Fingerprint `json:"fingerprint"`
	Secret      string      `json:"secret,omitempty"`
	Proposed    string      `json:"proposed,omitempty"`
	Added       time.Time   `json:"added"`
}

// decodePeers parses the content of peers.json. It is strict, because a field it
// dropped would be gone after the next write, and an entry it repaired would be a
// pin that nobody made.
func decodePeers(b []byte) ([]Peer, error) {
	// The version decides what the rest may look like, so it is read first.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, err
	}
	if head.Version != peersVersion {
		return nil, fmt.Errorf("format version %d, this program knows %d", head.Version, peersVersion)
	}
	var file peersFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if len(file.Peers) > maxPeers {
		return nil, fmt.Errorf("%d peers, at most %d are possible", len(file.Peers), maxPeers)
	}
	peers := make([]Peer, 0, len(file.Peers))
	for i, r := range file.Peers {
		p, err := r.peer()
		if err != nil {
			return nil, fmt.Errorf("peer %d: %w", i+1, err)
		}
		if indexName(peers, p.Name) >= 0 {
			return nil, fmt.Errorf("peer %d: a second %q", i+1, p.Name)
		}
		if indexFingerprint(peers, p.Fingerprint) >= 0 {
			return nil, fmt.Errorf("peer %d (%s): its fingerprint is there already", i+1, p.Name)
		}
		peers = append(peers, p)
	}
	return peers, nil
}

func (r peerRecord) peer() (Peer, error) {
	p := Peer{Name: r.Name, Fingerprint: r.Fingerprint, Added: r.Added}
	var err error
	if p.Secret, err = decodeSecret(r.Secret); err != nil {
		return Peer{}, err
	}
	if p.Proposed, err = decodeSecret(r.Proposed); err != nil {
		return Peer{}, err
	}
	return p, checkPeer(p)
}

// decodeSecret reads a secret; none is the zero value.
func decodeSecret(text string) (s Secret, err error) {
	if text == "" {
		return s, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(s) {
		return s, errors.New("its secret is not 32 bytes of base64url") // never quoted
	}
	return Secret(b), nil
}

// encodeSecret is the inverse of decodeSecret.
func encodeSecret(s Secret) string {
	if s == (Secret{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(s[:])
}

// checkPeer reports why p cannot be stored, or nil.
func checkPeer(p Peer) error {
	if err := ValidateName(p.Name); err != nil {
		return err
	}
	if p.Fingerprint.IsZero() {
		return fmt.Errorf("peer %s has no fingerprint", p.Name)
	}
	if p.Secret == (Secret{}) && p.Proposed == (Secret{}) {
		return fmt.Errorf("peer %s has no secret", p.Name)
	}
	return nil
}

// encodePeers is the inverse of decodePeers.
func encodePeers(peers []Peer) ([]byte, error) {
	file := peersFile{Version: peersVersion, Peers: make([]peerRecord, len(peers))}
	for i, p := range peers {
		file.Peers[i] = peerRecord{
			Name:        p.Name,
			Fingerprint: p.Fingerprint,
			Secret:      encodeSecret(p.Secret),
			Proposed:    encodeSecret(p.Proposed),
			Added:       p.Added,
		}
	}
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// indexName finds a peer by name; case makes no difference.
func indexName(peers []Peer, name string) int {
	for i, p := range peers {
		if strings.EqualFold(p.Name, name) {
			return i
		}
	}
	return -1
}

func indexFingerprint(peers []Peer, f Fingerprint) int {
	for i, p := range peers {
		if p.Fingerprint == f {
			return i
		}
	}
	return -1
}

// freeName returns name, or name with the lowest suffix -2, -3, ... that no peer
// has. The name is cut when the suffix would make it too long.
func freeName(peers []Peer, name string) string {
	if indexName(peers, name) < 0 {
		return name
	}
	for n := 2; ; n++ {
		suffix := fmt.Sprintf("-%d", n)
		if s := cutName(name, MaxNameBytes-len(suffix)) + suffix; indexName(peers, s) < 0 {
			return s
		}
	}
}

// cutName shortens s to at most n bytes without breaking a character.
func cutName(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
