package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

var (
	// ErrUnknownPeer says that no peer has this name or fingerprint.
	ErrUnknownPeer = errors.New("unknown peer")
	// ErrNameTaken says that another peer has the name already.
	ErrNameTaken = errors.New("name is taken")
)

// A Store is the list of known peers in a file, peers.json. Several processes may
// use the same file: changes are made under a lock, the file is replaced whole,
// and every call reads it anew, so what "p2pagent peers forget" took away is gone
// for a running listener too. It keeps nothing in memory, and all its methods may
// be called at the same time.
//
// A file that is not there is an empty list. One that cannot be understood, or
// that others can read, is an error in every call: nobody is known then.
type Store struct {
	path string
	now  func() time.Time
}

// OpenStore returns the store at path. It creates nothing before the first Put,
// and fails when there is a file that it cannot use.
func OpenStore(path string) (*Store, error) {
	s := &Store{path: path, now: time.Now}
	if _, err := s.List(); err != nil {
		return nil, err
	}
	return s, nil
}

// List returns the known peers, the one known longest first.
func (s *Store) List() ([]Peer, error) {
	b, err := s.read()
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, nil
	}
	peers, err := decodePeers(b)
	if err != nil {
		return nil, fmt.Errorf("known peers %s: %w", s.path, err)
	}
	return peers, nil
}

// read returns the file's content, nil when there is none.
func (s *Store) read() ([]byte, error) {
	b, err := readPrivate(s.path, maxPeersBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("known peers: %w", err)
	}
	return b, nil
}

// Get returns the peer of that name, in any case, or [ErrUnknownPeer].
func (s *Store) Get(name string) (Peer, error) {
	peers, err := s.List()
	if err != nil {
		return Peer{}, err
	}
	i := indexName(peers, name)
	if i < 0 {
		return Peer{}, fmt.Errorf("%w %q", ErrUnknownPeer, clip(name, MaxNameBytes))
	}
	return peers[i], nil
}

// ByFingerprint returns the peer with that key, or [ErrUnknownPeer].
func (s *Store) ByFingerprint(f Fingerprint) (Peer, error) {
	peers, err := s.List()
	if err != nil {
		return Peer{}, err
	}
	i := indexFingerprint(peers, f)
	if i < 0 {
		return Peer{}, fmt.Errorf("%w %s", ErrUnknownPeer, f)
	}
	return peers[i], nil
}

// Put adds a peer and returns it as it is stored now. Added is set to the present
// when it is zero.
//
// The name is what the peer calls itself. A peer whose fingerprint is known is updated
// in place: it gets the new secret and time and keeps its name, which the user may have
// chosen. A new peer whose name is taken gets a suffix: laptop-2, laptop-3, and so on.
// So the name in the returned Peer, not the one given, is the name to show.
func (s *Store) Put(p Peer) (Peer, error) { return s.put(p, false) }

// PutAs is Put with a name that the user chose. A known peer is renamed, and it fails
// with [ErrNameTaken] when another peer has the name.
func (s *Store) PutAs(p Peer, name string) (Peer, error) {
	p.Name = name
	return s.put(p, true)
}

// NameFree fails with [ErrNameTaken] when a peer with another fingerprint has the name.
func (s *Store) NameFree(name string, f Fingerprint) error {
	peers, err := s.List()
	if err != nil {
		return err
	}
	return nameFree(peers, name, f)
}

func nameFree(peers []Peer, name string, f Fingerprint) error {
	if i := indexName(peers, name); i >= 0 && peers[i].Fingerprint != f {
		return fmt.Errorf("%w: %s, key %s", ErrNameTaken, peers[i].Name, peers[i].Fingerprint)
	}
	return nil
}

func (s *Store) put(p Peer, chosen bool) (Peer, error) {
	if err := checkPeer(p); err != nil {
		return Peer{}, err
	}
	if p.Added.IsZero() {
		p.Added = s.now()
	}
	p.Added = p.Added.UTC().Truncate(time.Second)
	err := s.change(func(peers []Peer) ([]Peer, error) {
		if chosen {
			if err := nameFree(peers, p.Name, p.Fingerprint); err != nil {
				return nil, err
			}
		}
		if i := indexFingerprint(peers, p.Fingerprint); i >= 0 {
			if !chosen {
				p.Name = peers[i].Name
			}
			peers[i] = p
			return peers, nil
		}
		if len(peers) >= maxPeers {
			return nil, fmt.Errorf("add %s: %d peers are known, no more are possible", p.Name, maxPeers)
		}
		p.Name = freeName(peers, p.Name)
		return append(peers, p), nil
	})
	if err != nil {
		return Peer{}, err
	}
	return p, nil
}

// Propose stores a peer whose side of the pairing is not confirmed yet, and returns it
// with the name that it has or will have; p.Secret is the secret of that pairing. What
// was known of the peer before stays in force beside it, its name too. name is the
// user's choice, as with [Store.PutAs]; empty: the peer's own, as with [Store.Put].
func (s *Store) Propose(p Peer, name string) (Peer, error) {
	if err := checkPeer(p); err != nil {
		return Peer{}, err
	}
	p.Proposed, p.Secret = p.Secret, Secret{}
	p.Added = s.now().UTC().Truncate(time.Second)
	if name != "" {
		p.Name = name
	}
	err := s.change(func(peers []Peer) ([]Peer, error) {
		if name != "" {
			if err := nameFree(peers, name, p.Fingerprint); err != nil {
				return nil, err
			}
		}
		if i := indexFingerprint(peers, p.Fingerprint); i >= 0 {
			peers[i].Proposed = p.Proposed
			p = peers[i]
			return peers, nil
		}
		if len(peers) >= maxPeers {
			return nil, fmt.Errorf("add %s: %d peers are known, no more are possible", p.Name, maxPeers)
		}
		p.Name = freeName(peers, p.Name)
		return append(peers, p), checkPeer(p)
	})
	return p, err
}

// Confirm makes the proposed secret of a peer the one that counts: the peer has shown
// that it has it. fresh tells whether it did not count before. It fails with
// [ErrUnknownPeer] when the peer has another secret.
func (s *Store) Confirm(f Fingerprint, secret Secret) (p Peer, fresh bool, err error) {
	err = s.change(func(peers []Peer) ([]Peer, error) {
		i := indexFingerprint(peers, f)
		if i < 0 || secret == (Secret{}) || peers[i].Proposed != secret && peers[i].Secret != secret {
			return nil, fmt.Errorf("confirm: %w %s with that secret", ErrUnknownPeer, f)
		}
		if fresh = peers[i].Proposed == secret; fresh {
			peers[i].Secret, peers[i].Proposed = secret, Secret{}
		}
		p = peers[i]
		return peers, nil
	})
	return p, fresh, err
}

// Withdraw takes a proposed secret back: the peer has not stored it. A peer of which
// nothing else is known is gone.
func (s *Store) Withdraw(f Fingerprint, secret Secret) error {
	return s.change(func(peers []Peer) ([]Peer, error) {
		i := indexFingerprint(peers, f)
		if i < 0 || peers[i].Proposed != secret {
			return peers, nil
		}
		if peers[i].Proposed = (Secret{}); !peers[i].Confirmed() {
			return slices.Delete(peers, i, i+1), nil
		}
		return peers, nil
	})
}

// Rename gives a peer another name. It fails with [ErrUnknownPeer], or with
// [ErrNameTaken] when another peer has the new name.
func (s *Store) Rename(name, to string) error {
	if err := ValidateName(to); err != nil {
		return err
	}
	return s.change(func(peers []Peer) ([]Peer, error) {
		i := indexName(peers, name)
		if i < 0 {
			return nil, fmt.Errorf("rename: %w %q", ErrUnknownPeer, clip(name, MaxNameBytes))
		}
		if j := indexName(peers, to); j >= 0 && j != i {
			return nil, fmt.Errorf("rename %s: %w: %s", peers[i].Name, ErrNameTaken, peers[j].Name)
		}
		peers[i].Name = to
		return peers, nil
	})
}

// Forget removes a peer and its secret, or fails with [ErrUnknownPeer].
func (s *Store) Forget(name string) error {
	return s.change(func(peers []Peer) ([]Peer, error) {
		i := indexName(peers, name)
		if i < 0 {
			return nil, fmt.Errorf("forget: %w %q", ErrUnknownPeer, clip(name, MaxNameBytes))
		}
		return slices.Delete(peers, i, i+1), nil
	})
}

// change replaces the list with what edit makes of it, under the lock.
func (s *Store) change(edit func([]Peer) ([]Peer, error)) error {
	return withLock(s.path, func() error {
		peers, err := s.List()
		if err != nil {
			return err
		}
		if peers, err = edit(peers); err != nil {
			return err
		}
		b, err := encodePeers(peers)
		if err != nil {
			return err
		}
		if err := writeAtomic(s.path, b); err != nil {
			return fmt.Errorf("known peers: %w", err)
		}
		return nil
	})
}

// watchInterval is how often Watch looks. A forgotten peer has to be noticed
// within two seconds.
const watchInterval = time.Second

// Watch returns a channel that gets a value, at most one unread at a time, within
// about a second of any change to the file, by whatever process. It sees the
// changes made after the call. When ctx ends the channel is closed, and then the
// goroutine behind it is gone.
func (s *Store) Watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	last := s.digest()
	go func() {
		defer close(changed)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := s.digest()
			if now == last {
				continue
			}
			last = now
			select {
			case changed <- struct{}{}:
			default: // one is unread already
			}
		}
	}()
	return changed
}

// digest stands for the file's content, or for the error of reading it.
func (s *Store) digest() [sha256.Size]byte {
	b, err := s.read()
	if err != nil {
		b = []byte(err.Error())
	}
	return sha256.Sum256(b)
}
