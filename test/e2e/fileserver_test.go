package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// envFiles makes this test binary a file server at that address, inside of a lab's
// node.
const envFiles = "P2P_E2E_FILES"

// fileBytes is the size of the one file that it has.
const fileBytes = 10_000_000

// file10M is the file: the same bytes each time, and none that compress.
func file10M() []byte {
	b := make([]byte, fileBytes)
	rand.NewChaCha8([32]byte{'f', 'i', 'l', 'e'}).Read(b)
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestFileServerProgram is no test but the program's entry. It serves the file at
// /file and answers what is posted to /digest with its SHA-256.
func TestFileServerProgram(t *testing.T) {
	address := os.Getenv(envFiles)
	if address == "" {
		t.Skip("is run by other tests, inside of a lab's node")
	}
	file := file10M()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.bin", time.Time{}, bytes.NewReader(file))
	})
	mux.HandleFunc("POST /digest", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, digest(b))
	})
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("\nserving")
	t.Fatal(http.Serve(ln, mux))
}

// serveFiles starts the file server at a port of peer-b.
func (s *standing) serveFiles(port int) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.exec("peer-b", "env", envFiles+"="+loopbackPort(port), self, "-test.run=^TestFileServerProgram$", "-test.timeout=30m")
	p.await(s.t, p.stdout, "serving")
}

// fetchWithCurl downloads the file through a port of peer-a and compares it.
func (s *standing) fetchWithCurl(port int) {
	s.t.Helper()
	s.must("peer-a", "curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output", s.file("downloaded"), "http://"+loopbackPort(port)+"/file")
	got := []byte(s.read("downloaded"))
	if want := digest(file10M()); len(got) != fileBytes || digest(got) != want {
		s.t.Errorf("curl got %d bytes %s, the file has %d bytes %s", len(got), digest(got), fileBytes, want)
	}
}

// sendWithCurl uploads the file through a port of peer-a; the server says what came.
func (s *standing) sendWithCurl(port int) {
	s.t.Helper()
	s.write("uploaded", string(file10M()))
	got := s.must("peer-a", "curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--data-binary", "@"+s.file("uploaded"), "http://"+loopbackPort(port)+"/digest")
	if want := digest(file10M()); got != want {
		s.t.Errorf("the server received %s, curl sent %s", got, want)
	}
}
