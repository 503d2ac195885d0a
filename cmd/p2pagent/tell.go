package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"golang.org/x/term"
)

// A teller writes what happened to stderr, one line per change: when, what,
// and why.
type teller struct {
	verbose bool
	color   bool
	mute    func(trace.Record) bool // events without a line; nil: none

	mu    sync.Mutex
	w     io.Writer
	last  string          // an identical line is not repeated
	tries map[string]bool // lines about what is tried again and again; see tried
	kept  string          // the unfinished line at the bottom of a terminal
}

func newTeller(w io.Writer, verbose bool, color string) (*teller, error) {
	t := &teller{w: w, verbose: verbose}
	switch color {
	case "always":
		t.color = true
	case "never":
	case "auto":
		t.color = isTerminal(w) && os.Getenv("NO_COLOR") == ""
	default:
		return nil, usageError{fmt.Errorf("--color %q: auto, always or never", color)}
	}
	return t, nil
}

// Record writes the line of an event, if it has one.
func (t *teller) Record(r trace.Record) {
	text, tone := line(r, t.verbose)
	if text == "" || t.mute != nil && t.mute(r) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if text == t.last {
		return
	}
	if again := t.tried(r, text); again {
		return // said already, whatever was said since
	}
	t.last = text
	if t.color && tone != "" {
		text = tone + text + "\x1b[0m"
	}
	erase := ""
	if t.kept != "" {
		erase = eraseLine
	}
	fmt.Fprintf(t.w, "%s%9.3f s  %s\n%s", erase, r.Since.Seconds(), text, t.kept)
}

// maxTries is how many lines tried keeps: what differs each time is not kept for ever.
const maxTries = 64

// tried reports whether a line is about one more try that ends as an earlier one did,
// with none between that did not.
func (t *teller) tried(r trace.Record, text string) (again bool) {
	var of string
	over := false
	switch e := r.Event.(type) {
	case trace.SignalState:
		of, over = "signaling", e.State != "lost" && e.State != "connecting"
	case trace.RelayRefused:
		of = "relay " + r.Peer
	case trace.RelayAllocated:
		of, over = "relay "+r.Peer, true
	default:
		return false
	}
	if over || len(t.tries) >= maxTries {
		maps.DeleteFunc(t.tries, func(said string, _ bool) bool { return !over || strings.HasPrefix(said, of+"\n") })
	}
	if over {
		return false
	}
	key := of + "\n" + text
	again = t.tries[key]
	if t.tries == nil {
		t.tries = make(map[string]bool)
	}
	t.tries[key] = true
	return again
}

// eraseLine empties the line that a terminal's cursor is in.
const eraseLine = "\r\x1b[K"

// keep shows a line that stays at the bottom of the terminal, below those of
// events, in place of the last one; "" takes it away.
func (t *teller) keep(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text != t.kept {
		fmt.Fprint(t.w, eraseLine, text)
	}
	t.kept = text
}

// isTerminal tells whether a person is at the other end of a stream: lines can be
// rewritten there.
func isTerminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
)

// line is what people read of an event, and its colour. Nothing depends on the
// colour alone.
func line(r trace.Record, verbose bool) (text, tone string) {
	text, tone = brief(r)
	if e, ok := r.Event.(trace.PeerState); ok && e.Linked && !verbose {
		return "", "" // nobody waits for the peer
	}
	if text == "" && verbose {
		text = detail(r)
	}
	return printable(strings.ReplaceAll(text, "\n", " ")), tone // a peer cannot forge a line of its own
}

func brief(r trace.Record) (text, tone string) {
	switch e := r.Event.(type) {
	case trace.SignalState:
		switch e.State {
		case "connected":
			return "signaling: connected to " + e.URL, ""
		case "lost":
			return "signaling: no connection to " + e.URL + because(e.Why) + "; trying again", yellow
		case "held":
			return "signaling: the server makes us wait" + because(e.Why) + "; trying again", yellow
		}
	case trace.PeerState:
		switch {
		case e.Present && e.Why != "":
			return fmt.Sprintf("%s: %s", r.Peer, e.Why), ""
		case e.Present:
			return r.Peer + ": there", ""
		}
		if e.Linked {
			return r.Peer + because(e.Why) + "; the link goes on", ""
		}
		return r.Peer + ": absent" + because(e.Why) + "; waiting", yellow
	case trace.Paired:
		return paired(e), green
	case trace.PairingFailed:
		switch { // else the new code's own line says so
		case e.Final:
			return "no pairing: " + e.Why, red
		case e.Valid:
			return "pairing: " + e.Why + "; the code can still be used", yellow
		}
	case trace.RelayAllocated:
		return fmt.Sprintf("relay: %s on %s over %s", e.Relayed, e.Server, e.Transport), ""
	case trace.RelayMissing:
		return r.Peer + ": no relay: " + e.Why + "; try: " + e.Remedy, yellow
	case trace.SessionState:
		switch e.State {
		case "up":
			return r.Peer + ": session up, encrypted end to end", green
		case "closed":
			return r.Peer + ": link ended" + because(e.Why), yellow
		}
	case trace.PathSuspected:
		return pathSuspected(r.Peer, e)
	case trace.PathBarred:
		if e.Barred {
			return fmt.Sprintf("%s: %s is not used: %s", r.Peer, pathText(e.Path), e.Why), yellow
		}
		return fmt.Sprintf("%s: %s may be used: %s", r.Peer, pathText(e.Path), e.Why), ""
	case trace.PathChanged:
		return pathChange(r.Peer, e)
	case trace.Verdict:
		if e.Path == "relayed" && e.Remedy != "" { // without one, it is not settled yet
			return r.Peer + ": " + e.String(), ""
		}
	case trace.TargetDenied:
		switch {
		case e.Remote:
			return fmt.Sprintf("%s asks for %s, which is not on the --allow list", r.Peer, e.Target), yellow
		case e.Never:
			return fmt.Sprintf("%s does not allow %s, and nothing could make it", r.Peer, e.Target), yellow
		}
		return fmt.Sprintf("%s does not allow %s; it needs --allow %[2]s there", r.Peer, e.Target), yellow
	case trace.TargetResolved:
		return targetResolved(e)
	case trace.Outage:
		if e.Over {
			return fmt.Sprintf("%s: packets pass again, after %s", r.Peer, units.Millis(e.Silent)), green
		}
		return r.Peer + ": " + e.Verdict.String(), red
	case trace.StreamWaiting:
		return fmt.Sprintf("%s: a connection for %s waits, 30 s at most%s", r.Peer, e.Target, because(e.Why)), yellow
	case trace.StreamsLimited:
		if e.Why == "" {
			return e.Local + ": connections are carried again", ""
		}
		return e.Local + because(e.Why) + "; what comes now is reset", yellow
	case trace.StreamRefused:
		return streamRefused(r.Peer, e), yellow
	case trace.KeyShared:
		return keyShared(r.Peer, e), yellow
	case trace.Trouble:
		if e.Why == "" {
			return e.Where + ": works again", ""
		}
		return e.Where + because(e.Why) + "; trying again", yellow
	}
	return "", ""
}

func paired(e trace.Paired) string {
	text := "paired with "
	if e.Again {
		text = "paired again with "
	}
	text += fmt.Sprintf("%s, key %s", e.Name, e.Fingerprint)
	switch {
	case e.Was != "":
		text += "; until now it was called " + e.Was
	case e.Calls != "" && e.Again:
		text += fmt.Sprintf("; it calls itself %s, and keeps its name here", e.Calls)
	case e.Calls != "":
		text += fmt.Sprintf("; it calls itself %s, which is another peer's name here", e.Calls)
	}
	return text
}

// streamRefused names the flag that a connection came by, and who refused it; a peer's
// own words are quoted.
func streamRefused(peer string, e trace.StreamRefused) string {
	switch {
	case e.Remote && e.Kind == "reverse" && e.Port != "":
		return fmt.Sprintf("port %s is not opened for %s%s", e.Port, peer, because(e.Why))
	case e.Remote && e.Kind == "reverse":
		return fmt.Sprintf("-R to %s%s", e.Target, because(e.Why))
	case e.Remote:
		return fmt.Sprintf("%s asks for %s%s", peer, e.Target, because(e.Why))
	}
	what := e.Target // of a pipe
	switch {
	case e.Kind == "reverse":
		what = "-R " + e.Port // the target is the other side's affair
	case e.Port != "":
		what = "-L " + e.Target
	}
	switch e.Code {
	case "":
		return what + because(e.Why)
	case "not allowed":
		return fmt.Sprintf("%s: %s does not allow it: %q", what, peer, e.Why)
	case "unreachable":
		return fmt.Sprintf("%s: %s does not reach it: %q", what, peer, e.Why)
	}
	return fmt.Sprintf("%s: refused by %s: %q", what, peer, e.Why)
}

// keyShared says of two listeners with one key what somebody can do about it.
func keyShared(peer string, e trace.KeyShared) string {
	switch e.Side {
	case "newcomer":
		return "took the place of another `p2pagent listen` with this machine's key; run one only, and give a copied machine a key of its own"
	case "replaced":
		return "another `p2pagent listen` with this machine's key took this one's place; its links go on, and it ends with them"
	}
	text := peer + ": a second `p2pagent listen` with its key took over"
	if e.From != "" && e.To != "" && e.From != e.To {
		text = fmt.Sprintf("%s: %s took over from %s: two machines have its key", peer, e.To, e.From)
	}
	if e.Kept {
		text += "; the link with the first goes on"
	}
	if e.Pause > 0 {
		text += fmt.Sprintf("; linking again in %s", units.Millis(1000*e.Pause))
	}
	return text
}

func pathChange(peer string, e trace.PathChanged) (text, tone string) {
	switch {
	case e.To == nil && e.Why == path.WhyClosed:
		return "", "" // the link has ended, or its sockets are made anew
	case e.To == nil:
		return peer + ": no path" + because(e.Why), red
	}
	text = fmt.Sprintf("%s: %s, rtt %s%s", peer, pathText(*e.To), units.Millis(e.RTT), because(e.Why))
	if e.To.Kind == "direct" && !e.To.InTunnel {
		return text, green
	}
	return text, yellow
}

// pathSuspected tells of a silence where it matters: on the path that payload takes.
func pathSuspected(peer string, e trace.PathSuspected) (text, tone string) {
	if !e.Active {
		return "", ""
	}
	text = fmt.Sprintf("%s: %s silent for %s", peer, pathText(e.Path), units.Millis(e.Silent))
	if e.Second == nil {
		return text + "; there is no second path", yellow
	}
	return text + "; sending over a second path too", yellow
}

// targetResolved is a name of --allow that has moved, or is of no use for now.
func targetResolved(e trace.TargetResolved) (text, tone string) {
	text = "--allow " + e.Name + " "
	more := ""
	for _, r := range e.Refused {
		more += fmt.Sprintf("; %s is not used, as it is %s", r.Addr, r.Why)
	}
	switch {
	case e.Err != "" && len(e.Addrs) == 0:
		return text + e.Err + more + "; it is looked up again", yellow
	case e.Err != "":
		return text + e.Err + more + "; staying with " + list(e.Addrs), yellow
	case len(e.Before) > 0:
		return text + "has moved to " + list(e.Addrs) + " from " + list(e.Before) + more, ""
	case e.Failed > 0 || more != "":
		return text + "is " + list(e.Addrs) + more, ""
	}
	return "", ""
}

func list[T fmt.Stringer](items []T) string {
	var texts []string
	for _, i := range items {
		texts = append(texts, i.String())
	}
	return strings.Join(texts, ", ")
}

func pathText(p trace.Path) string {
	if p.Kind == "direct" {
		return fmt.Sprintf("direct path %s <-> %s", p.Local, p.Remote) + tunnelText(p.Tunnel, p.InTunnel)
	}
	hops := "one relay"
	if p.Hops > 1 {
		hops = "two relays"
	}
	if p.Stream {
		hops += " (TCP)" // or TLS, which is the same to a packet
	}
	return fmt.Sprintf("relayed path %s <-> %s over %s", p.Local, p.Remote, hops) + tunnelText(p.Tunnel, p.InTunnel)
}

// tunnelText says which tunnel a path is inside of, if it is: one of this machine
// has a name here.
func tunnelText(name string, inside bool) string {
	switch {
	case name != "":
		return " inside the tunnel " + name
	case inside:
		return " inside a tunnel of the peer's"
	}
	return ""
}

// detail is what -v adds: every other event, as its members.
func detail(r trace.Record) string {
	switch e := r.Event.(type) {
	case trace.SignalMessage:
		if e.Via == "signaling" && r.Peer == "" {
			return "" // the frames below the messages
		}
	case trace.Failure:
		return e.Where + ": " + e.Err
	}
	text := strings.ReplaceAll(r.Event.EventName(), ".", " ")
	if said := said(reflect.ValueOf(r.Event)); said != "" {
		text += ": " + said
	}
	if r.Peer != "" {
		text = r.Peer + ": " + text
	}
	return text
}

// said writes the members of an event that have a value, under the names that they
// have in the trace. A name that has a unit makes a quantity of its number.
func said(event reflect.Value) string {
	var out []string
	for i := range event.NumField() {
		name, _, _ := strings.Cut(event.Type().Field(i).Tag.Get("json"), ",")
		if name == "" {
			continue // of a newer version, and read from a file
		}
		words := strings.ReplaceAll(name, "_", " ")
		v := event.Field(i)
		if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
			continue
		}
		if bare, ok := strings.CutSuffix(words, " ms"); ok || words == "ms" {
			out = append(out, strings.TrimSpace(strings.TrimSuffix(bare, "ms")+" "+units.Millis(asFloat(v))))
			continue
		}
		if bare, ok := strings.CutSuffix(words, " s"); ok {
			out = append(out, bare+" "+units.Millis(1000*asFloat(v)))
			continue
		}
		if bare, ok := strings.CutPrefix(words, "bytes "); ok {
			out = append(out, bare+" "+units.Bytes(uint64(asFloat(v))))
			continue
		}
		if v = reflect.Indirect(v); v.Kind() == reflect.Bool {
			out = append(out, map[bool]string{true: words, false: "no " + words}[v.Bool()])
			continue
		}
		switch text := shown(v); {
		case v.Type() == reflect.TypeFor[trace.Path]() && words == "path": // it says so itself
			out = append(out, text)
		default:
			out = append(out, words+" "+text)
		}
	}
	return strings.Join(out, ", ")
}

func asFloat(v reflect.Value) float64 {
	if v.CanInt() {
		return float64(v.Int())
	}
	return v.Float()
}

// shown is one value for people.
func shown(v reflect.Value) string {
	switch e := v.Interface().(type) {
	case trace.Path:
		return pathText(e)
	case fmt.Stringer: // addresses, verdicts
		return e.String()
	}
	switch v.Kind() {
	case reflect.Slice:
		var items []string
		for i := range v.Len() {
			items = append(items, shown(v.Index(i)))
		}
		return strings.Join(items, " ")
	case reflect.Struct:
		return "(" + said(v) + ")"
	}
	return fmt.Sprint(v.Interface())
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + strings.TrimSuffix(why, ".")
}
