package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "config", "peers.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testPeer(name string) Peer {
	return Peer{Name: name, Fingerprint: fingerprintOf([]byte(name)), Secret: Secret{1, 2, 3}}
}

func put(t *testing.T, s *Store, p Peer) Peer {
	t.Helper()
	got, err := s.Put(p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func names(t *testing.T, s *Store) string {
	t.Helper()
	peers, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var n []string
	for _, p := range peers {
		n = append(n, p.Name)
	}
	return strings.Join(n, " ")
}

func TestStore(t *testing.T) {
	s := newStore(t)
	if got := names(t, s); got != "" {
		t.Errorf("a new store has %q", got)
	}
	if _, err := os.Stat(filepath.Dir(s.path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opening a store made its directory: %v", err)
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	s.now = func() time.Time { return now }
	desk := put(t, s, testPeer("desk"))
	if want := now.Truncate(time.Second); !desk.Added.Equal(want) {
		t.Errorf("added %v, want %v", desk.Added, want)
	}
	put(t, s, testPeer("Laptop"))

	// Another process opens the same file.
	other, err := OpenStore(s.path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := other.Get("desk")
	if err != nil || got != desk {
		t.Errorf("Get = %v, %v; want %v", got, err, desk)
	}
	if got, err = other.Get("LAPTOP"); err != nil || got.Name != "Laptop" {
		t.Errorf("Get in another case = %v, %v", got, err)
	}
	if got, err = other.ByFingerprint(desk.Fingerprint); err != nil || got != desk {
		t.Errorf("ByFingerprint = %v, %v", got, err)
	}
	if err := other.Rename("desk", "office"); err != nil {
		t.Error(err)
	}
	if got := names(t, s); got != "office Laptop" {
		t.Errorf("after a rename elsewhere: %q", got)
	}
	if err := other.Forget("office"); err != nil {
		t.Error(err)
	}
	if got := names(t, s); got != "Laptop" {
		t.Errorf("after a forget elsewhere: %q", got)
	}
	if _, err := s.ByFingerprint(desk.Fingerprint); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("a forgotten peer: %v", err)
	}
	if runtime.GOOS != "windows" {
		if m := modeOf(t, s.path); m != 0o600 {
			t.Errorf("mode %04o", m)
		}
		if m := modeOf(t, filepath.Dir(s.path)); m != 0o700 {
			t.Errorf("directory mode %04o", m)
		}
	}
}

func TestStoreNames(t *testing.T) {
	s := newStore(t)
	long := strings.Repeat("é", MaxNameBytes/2)
	for i, tt := range []struct{ name, want string }{
		{"desk", "desk"}, {"desk", "desk-2"}, {"DESK", "DESK-3"}, {"desk-2", "desk-2-2"},
		{long, long}, {long, strings.Repeat("é", MaxNameBytes/2-1) + "-2"},
	} {
		p := testPeer(tt.name)
		p.Fingerprint[0] ^= byte(i + 1)
		if got := put(t, s, p); got.Name != tt.want {
			t.Errorf("put %q: stored as %q, want %q", tt.name, got.Name, tt.want)
		}
	}
	for name, f := range map[string]struct {
		err  error
		want error
	}{
		"taken":        {s.Rename("desk", "Desk-2"), ErrNameTaken},
		"own case":     {s.Rename("desk", "Desk"), nil},
		"unknown":      {s.Rename("nobody", "x"), ErrUnknownPeer},
		"bad":          {s.Rename("desk", "a\nb"), ErrBadName},
		"forget twice": {errors.Join(s.Forget("desk-2"), s.Forget("desk-2")), ErrUnknownPeer},
	} {
		if !errors.Is(f.err, f.want) {
			t.Errorf("%s: %v, want %v", name, f.err, f.want)
		}
	}
}

// Pairing again with the same machine replaces the secret and keeps the name.
func TestStoreUpdatesInPlace(t *testing.T) {
	s := newStore(t)
	put(t, s, testPeer("desk"))
	put(t, s, testPeer("laptop"))
	if err := s.Rename("desk", "office"); err != nil {
		t.Fatal(err)
	}
	again := testPeer("desk")
	again.Secret = Secret{9}
	again.Added = time.Unix(1e9, 0)
	got := put(t, s, again)
	if got.Name != "office" || got.Secret != (Secret{9}) || !got.Added.Equal(again.Added) {
		t.Errorf("put returned %v", got)
	}
	if stored, err := s.Get("office"); err != nil || stored != got {
		t.Errorf("stored %v, %v; want %v", stored, err, got)
	}
	if got := names(t, s); got != "office laptop" {
		t.Errorf("peers %q", got)
	}
}

func TestStorePutRefuses(t *testing.T) {
	s := newStore(t)
	for name, change := range map[string]func(*Peer){
		"name":        func(p *Peer) { p.Name = "" },
		"fingerprint": func(p *Peer) { p.Fingerprint = Fingerprint{} },
		"secret":      func(p *Peer) { p.Secret = Secret{} },
	} {
		p := testPeer("desk")
		change(&p)
		if _, err := s.Put(p); err == nil {
			t.Errorf("a peer without a %s was taken", name)
		}
	}
}

func TestStoreFull(t *testing.T) {
	peers := make([]Peer, maxPeers)
	for i := range peers {
		// The longest a name can get in JSON.
		peers[i] = testPeer(fmt.Sprintf("x%s%04d", strings.Repeat("<", MaxNameBytes-5), i))
		peers[i].Added = time.Date(9999, 1, 1, 0, 0, 0, 123456789, time.UTC)
	}
	b, err := encodePeers(peers)
	if err != nil || len(b) > maxPeersBytes {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	s := newStore(t)
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(testPeer("one more")); err == nil {
		t.Error("a peer too many was taken")
	}
	peers[0].Secret = Secret{7}
	put(t, s, peers[0]) // but a known one can be updated
}

// A file that cannot be understood, or that others can read, lets nobody in and
// is not overwritten.
func TestStoreFailsClosed(t *testing.T) {
	good, err := encodePeers([]Peer{testPeer("desk")})
	if err != nil {
		t.Fatal(err)
	}
	record := strings.TrimSpace(string(good[strings.Index(string(good), "[")+1 : strings.LastIndex(string(good), "]")]))
	tests := map[string]struct{ content, want string }{
		"empty":            {"", "end of JSON"},
		"half":             {string(good[:len(good)/2]), "unexpected"},
		"newer":            {`{"version":2,"people":[]}`, "format version 2, this program knows 1"},
		"no version":       {`{"peers":[]}`, "format version 0"},
		"unknown field":    {strings.Replace(string(good), `"name"`, `"colour":1,"name"`, 1), "colour"},
		"two objects":      {string(good) + "{}", "after top-level value"},
		"bad name":         {strings.Replace(string(good), "desk", `\u001b[31m`, 1), "not printable"},
		"short secret":     {strings.Replace(string(good), `"secret": "AQID`, `"secret": "`, 1), "secret is not 32 bytes"},
		"no fingerprint":   {strings.Replace(string(good), fmt.Sprintf("%x", [32]byte(testPeer("desk").Fingerprint)), strings.Repeat("00", 32), 1), "has no fingerprint"},
		"same name":        {fmt.Sprintf(`{"version":1,"peers":[%s,%s]}`, record, record), `a second "desk"`},
		"same fingerprint": {fmt.Sprintf(`{"version":1,"peers":[%s,%s]}`, record, strings.Replace(record, "desk", "dask", 1)), "fingerprint is there already"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.json")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			s := &Store{path: path, now: time.Now}
			if _, err := OpenStore(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("open: %v; want %q and the path", err, tt.want)
			}
			if _, err := s.Get("desk"); err == nil || errors.Is(err, ErrUnknownPeer) {
				t.Errorf("get: %v", err)
			}
			if _, err := s.Put(testPeer("laptop")); err == nil {
				t.Error("put worked")
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != tt.content {
				t.Errorf("the file is now %q, %v", b, err)
			}
		})
	}
	t.Run("others can read it", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("windows has no mode bits")
		}
		path := filepath.Join(t.TempDir(), "peers.json")
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("open: %v", err)
		}
	})
}

func TestPeerJSONHasNoSecret(t *testing.T) {
	b, err := json.Marshal(testPeer("desk"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(string(b)), "secret") || strings.Contains(string(b), "AQID") {
		t.Errorf("%s", b)
	}
}

// Watch says something for each change, whoever made it, and nothing otherwise.
func TestWatch(t *testing.T) {
	s := newStore(t)
	put(t, s, testPeer("desk"))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed := s.Watch(ctx)
		quiet := func() {
			t.Helper()
			time.Sleep(10 * watchInterval)
			select {
			case <-changed:
				t.Error("a change that nobody made")
			default:
			}
		}
		noticed := func(what string) {
			t.Helper()
			begin := time.Now()
			select {
			case _, ok := <-changed:
				if d := time.Since(begin); !ok || d > watchInterval {
					t.Errorf("%s: noticed %t after %v", what, ok, d)
				}
			case <-time.After(10 * watchInterval):
				t.Fatalf("%s: not noticed", what)
			}
		}
		quiet()
		other := &Store{path: s.path, now: time.Now}
		if err := other.Forget("desk"); err != nil {
			t.Fatal(err)
		}
		noticed("forget")
		quiet()
		put(t, other, testPeer("laptop"))
		noticed("put")
		// Several changes while nobody listens are one notice.
		put(t, other, testPeer("phone"))
		time.Sleep(2 * watchInterval)
		put(t, other, testPeer("tablet"))
		time.Sleep(2 * watchInterval)
		noticed("two puts")
		quiet()
		if err := os.Remove(s.path); err != nil {
			t.Fatal(err)
		}
		noticed("removal")
		cancel()
		if _, ok := <-changed; ok {
			t.Error("a value instead of the end")
		}
	})
}

func TestValidateName(t *testing.T) {
	for name, ok := range map[string]bool{
		"desk": true, "Anna's laptop": true, "büro 2": true, "机器": true, "3d-printer": true, "a.b_c": true,
		strings.Repeat("x", MaxNameBytes): true, strings.Repeat("x", MaxNameBytes+1): false,
		"": false, " desk": false, "desk ": false, "-L": false, ".": false, "..": false, "a/b": false, `a\b`: false,
		"a\nb": false, "a\x00b": false, "\x1b[31mred": false, "a\u202eb": false, "a\u00a0b": false, "a\u200bb": false,
		"\xff": false, "12-acorn-window-zigzag": false, "12 aa bb cc": false,
	} {
		if err := ValidateName(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadName) {
			t.Errorf("ValidateName(%q) = %v", name, err)
		}
	}
}

// A name that the user chose is taken as it is, or not at all.
func TestPutAs(t *testing.T) {
	s := newStore(t)
	put(t, s, testPeer("desk"))
	put(t, s, testPeer("laptop"))
	if _, err := s.PutAs(testPeer("phone"), "Desk"); !errors.Is(err, ErrNameTaken) {
		t.Errorf("the name of another peer: %v", err)
	}
	if _, err := s.PutAs(testPeer("phone"), "a/b"); !errors.Is(err, ErrBadName) {
		t.Errorf("no name: %v", err)
	}
	if got := names(t, s); got != "desk laptop" {
		t.Errorf("after what was refused: %q", got)
	}
	for _, tt := range []struct{ peer, as, want string }{
		{"phone", "mobile", "desk laptop mobile"}, // new
		{"phone", "mobile", "desk laptop mobile"}, // the same once more
		{"phone", "Mobile", "desk laptop Mobile"},
		{"desk", "office", "office laptop Mobile"}, // known
	} {
		got, err := s.PutAs(testPeer(tt.peer), tt.as)
		if err != nil || got.Name != tt.as || names(t, s) != tt.want {
			t.Errorf("%s as %s: %q, %v; the store has %q, want %q", tt.peer, tt.as, got.Name, err, names(t, s), tt.want)
		}
	}
	for name, want := range map[string]error{"office": nil, "free": nil, "LAPTOP": ErrNameTaken} {
		if err := s.NameFree(name, testPeer("desk").Fingerprint); !errors.Is(err, want) {
			t.Errorf("%s for desk: %v, want %v", name, err, want)
		}
	}
}

// A proposed peer becomes one for good, or leaves no trace, and what was known of it
// before counts until then.
func TestPropose(t *testing.T) {
	s := newStore(t)
	put(t, s, testPeer("laptop"))
	desk := testPeer("desk")
	again := func() Peer { // from the file
		p, err := s.ByFingerprint(desk.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	secrets := func(p Peer) (all []Secret) {
		for _, v := range p.Variants() {
			all = append(all, v.Secret)
		}
		return all
	}
	propose := func(secret Secret, name, want string) {
		t.Helper()
		p := desk
		p.Secret = secret
		if p, err := s.Propose(p, name); err != nil || p.Name != want {
			t.Fatalf("proposed as %q, %v; want %q", p.Name, err, want)
		}
	}
	one, two := Secret{1}, Secret{2}
	if _, err := s.Propose(desk, "Laptop"); !errors.Is(err, ErrNameTaken) {
		t.Errorf("the name of another peer: %v", err)
	}
	desk.Name = "laptop" // what it calls itself
	propose(one, "", "laptop-2")
	if p := again(); p.Confirmed() || !slices.Equal(secrets(p), []Secret{one}) {
		t.Errorf("a new peer: confirmed %t, %d secrets", p.Confirmed(), len(secrets(p)))
	}
	if err := s.Withdraw(desk.Fingerprint, two); err != nil || names(t, s) != "laptop laptop-2" {
		t.Errorf("another secret withdrawn: %v, %q", err, names(t, s))
	}
	if err := s.Withdraw(desk.Fingerprint, one); err != nil || names(t, s) != "laptop" {
		t.Errorf("withdrawn: %v, %q", err, names(t, s))
	}
	propose(one, "office", "office")
	if _, _, err := s.Confirm(desk.Fingerprint, two); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("another secret confirmed: %v", err)
	}
	if _, _, err := s.Confirm(testPeer("laptop").Fingerprint, Secret{}); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("no secret confirmed: %v", err)
	}
	for _, want := range []bool{true, false} { // the second time it was confirmed already
		p, fresh, err := s.Confirm(desk.Fingerprint, one)
		if err != nil || fresh != want || p != again() || !p.Confirmed() || !slices.Equal(secrets(p), []Secret{one}) {
			t.Errorf("confirmed: %v, fresh %t, %v", p, fresh, err)
		}
	}
	propose(two, "", "office") // paired again
	if p := again(); !p.Confirmed() || !slices.Equal(secrets(p), []Secret{two, one}) {
		t.Errorf("paired again: confirmed %t, %d secrets", p.Confirmed(), len(secrets(p)))
	}
	if err := s.Withdraw(desk.Fingerprint, two); err != nil || !slices.Equal(secrets(again()), []Secret{one}) {
		t.Errorf("withdrawn: %v, %d secrets", err, len(secrets(again())))
	}
	propose(two, "", "office")
	desk.Secret = two
	if p := put(t, s, desk); p.Name != "office" || !slices.Equal(secrets(again()), []Secret{two}) {
		t.Errorf("put: %q, %d secrets", p.Name, len(secrets(again())))
	}
}
