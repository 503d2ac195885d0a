package e2e

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// A portal answers at an address in the place of the server that is meant, as the
// network of a hotel does until somebody has logged in.
func portal(t *testing.T, address string, answer http.HandlerFunc) (leave func()) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: answer}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Serve(ln)
	}()
	leave = func() {
		s.Close()
		<-ended // until then the address is taken
	}
	t.Cleanup(leave)
	return leave
}

func redirect(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "http://login.example/?from=here")
	w.WriteHeader(http.StatusFound)
}

// TestStartBehindAPortal: who starts behind a captive portal says what answers, once,
// and links when the portal is gone. Who asks one thing is told at once.
func TestStartBehindAPortal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listener.interrupt(t)
	w.kill(t)
	leave := portal(t, w.web(), redirect)

	fresh := newHome(t, w.url).start(t, "listen")
	w.listener = w.bob.start(t, "listen", "--allow", w.echo)
	link := w.alice.start(t, "connect", "bob")
	const says = "it redirects (HTTP 302) to http://login.example"
	for _, p := range []*process{fresh, w.listener, link} {
		p.await(t, p.stderr, `not a signal server: it redirects \(HTTP 302\) to http://login\.example \(log in.*; trying again`)
	}
	if got := w.alice.run(t, "ping", "--timeout", "30s", "bob"); got.code != 6 || !strings.Contains(got.stderr, says) || !strings.Contains(got.stderr, "try: log in") {
		t.Errorf("ping behind a portal: exit code %d, want 6 with %q:\n%s", got.code, says, got.stderr)
	}
	if got := w.alice.run(t, "connect", "--timeout", briefly, "bob"); got.code != 6 || !strings.Contains(got.stderr, says) {
		t.Errorf("connect with a bound: exit code %d, want 6 with %q:\n%s", got.code, says, got.stderr)
	}

	// Another answer is said too. What comes in plain to who wants TLS is no reason
	// to do without.
	leave()
	leave = portal(t, w.web(), func(http.ResponseWriter, *http.Request) {})
	secure := w.alice.start(t, "connect", "--signal", strings.Replace(w.url, "ws://", "wss://", 1), "bob")
	secure.await(t, secure.stderr, "it does not speak TLS")
	for _, p := range []*process{fresh, w.listener, link} {
		p.await(t, p.stderr, `it answers HTTP 200`)
		if n := strings.Count(p.stderr.String(), says); n != 1 {
			t.Errorf("%s said it %d times:\n%s", p.name, n, p.stderr)
		}
	}
	if text := secure.stderr.String(); strings.Contains(text, " ws://") {
		t.Errorf("advises to do without encryption:\n%s", text)
	}
	secure.interrupt(t)

	leave()
	w.again(t)
	link.await(t, link.stderr, "bob: session up")
	code(t, fresh)
	w.goodLink(t)
}
