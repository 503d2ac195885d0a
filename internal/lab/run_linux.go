package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Run builds a lab and measures links in it, one after the other, with the peers
// known to each other and the listener running. each gets every result, and ends
// the series with an error. Run fails where nothing can be said about the link:
// without the right NATs, or without programs that run.
func (s *Sandbox) Run(ctx context.Context, t Topology, cfg Config, each func(Result) error) error {
	bin, err := findBinaries(cfg.Bin)
	if err != nil {
		return err
	}
	b, err := s.prepare(ctx, t, cfg, bin)
	if err != nil {
		return err
	}
	err = b.measureAll(ctx, each)
	return errors.Join(err, b.close())
}

// bench is a lab that is ready to measure.
type bench struct {
	lab     *Lab
	cfg     Config
	logs    string
	d       *deployment
	capture *capture
}

// prepare builds the lab, proves its NATs and gets the programs going.
func (s *Sandbox) prepare(ctx context.Context, t Topology, cfg Config, bin string) (_ *bench, err error) {
	b := &bench{cfg: cfg}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", t, errors.Join(err, b.close()))
		}
	}()
	if b.lab, err = s.Build(ctx, t, cfg.Verbose); err != nil {
		return nil, err
	}
	b.logs = b.lab.dir
	if cfg.Trace != "" {
		if b.logs, err = filepath.Abs(cfg.Trace); err != nil {
			return nil, err
		}
	}
	if err = os.MkdirAll(b.logs, 0o755); err != nil {
		return nil, err
	}
	if b.capture, err = b.lab.startCapture(cfg.Pcap); err != nil {
		return nil, err
	}
	stepCtx, cancel := context.WithTimeoutCause(ctx, cfg.timeout(), errTimeout)
	defer cancel()
	b.d, err = deploy(stepCtx, b.lab, bin, b.logs)
	return b, err
}

var errTimeout = errors.New("it took too long")

func (b *bench) close() error {
	var errs []error
	if b.d != nil {
		b.d.close()
	}
	if b.capture != nil {
		errs = append(errs, b.capture.close())
	}
	if b.lab != nil {
		errs = append(errs, b.lab.Close())
	}
	return errors.Join(errs...)
}

func (b *bench) measureAll(ctx context.Context, each func(Result) error) error {
	for i := range b.cfg.runs() {
		r, err := b.measure(ctx, i)
		if err != nil {
			return fmt.Errorf("%s: %w", b.lab.Topology, err)
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// measure is one run from the start of the connecting program to the proof.
func (b *bench) measure(ctx context.Context, i int) (Result, error) {
	if err := b.d.quiet(ctx); err != nil {
		return Result{}, err
	}
	if err := b.lab.ForgetMappings(ctx); err != nil {
		return Result{}, err
	}
	name := PeerA
	if b.cfg.runs() > 1 {
		name += "-" + strconv.Itoa(i+1)
	}
	seen := newRecording()
	start := time.Now()
	connect, err := b.d.agent(PeerA, name, seen.line, nil, "connect", peerName,
		"-L", entryAddr+":"+targetAddr, "--json", "--trace", filepath.Join(b.logs, name+".jsonl"))
	if err != nil {
		return Result{}, err
	}
	defer connect.stop()
	ctx, stop := whileRunning(ctx, connect)
	defer stop()

	r := Result{A: b.lab.Topology.A.Name, B: b.lab.Topology.B.Name, SameNAT: b.lab.Topology.SameNAT, Path: NoPath}
	if r.SameNAT {
		r.B = r.A
	}
	wait, cancel := context.WithTimeoutCause(ctx, b.cfg.timeout(), errTimeout)
	defer cancel()
	if err := firstByte(wait, b.lab.Node(PeerA), entryAddr); err != nil {
		if ctx.Err() != nil && !ended(connect) {
			return r, context.Cause(ctx)
		}
		return b.noPath(r, connect, seen, err), nil
	}
	r.Connected, r.FirstByteMS = true, millis(time.Since(start))
	proof, err := b.prove(ctx, connect, seen)
	if err != nil {
		return r, err
	}
	events, _ := seen.all()
	r.Proof, r.Path, r.Verdict = &proof, proof.Path(), lastVerdict(events)
	if move, ok := wentDirect(events); ok && r.Path == Direct {
		r.DirectMS = millis(move.Time.Sub(start))
	}
	return r, nil
}

// noPath completes the result of a link that never carried a byte.
func (b *bench) noPath(r Result, connect *process, seen *recording, err error) Result {
	events, _ := seen.all()
	r.Verdict = lastVerdict(events)
	if ended(connect) {
		r.Exit = connect.cmd.ProcessState.ExitCode()
		err = connect.failure()
	}
	if r.Verdict.Text == "" {
		r.Verdict = trace.Verdict{Path: "none", Text: err.Error()}
	}
	return r
}

func millis(d time.Duration) *int64 {
	ms := d.Round(time.Millisecond).Milliseconds()
	return &ms
}

func ended(p *process) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// whileRunning returns a context that ends with the program too.
func whileRunning(ctx context.Context, p *process) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.done:
			cancel(p.failure())
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
	}
}

// How long a link may take to settle on its path. Where nothing but a relay is
// expected, waiting longer would only ask again whether the impossible happens.
const (
	settleDirect  = 30 * time.Second
	settleRelayed = 2 * time.Second
)

// prove waits until the path has settled, sends payload and counts where it went.
// Counts that the agents themselves disturbed prove nothing, and are made again:
// when the path changed meanwhile, or probes were many.
func (b *bench) prove(ctx context.Context, connect *process, seen *recording) (Proof, error) {
	t := b.lab.Topology
	expected := Expected(t.A, t.B, t.SameNAT)
	limit := settleRelayed
	if expected == Direct {
		limit = settleDirect
	}
	settle, cancel := context.WithTimeout(ctx, limit)
	err := seen.wait(settle, connect, "a settled path", func(events []trace.Record) bool { return settled(events, expected) })
	cancel()
	if err != nil && (ctx.Err() != nil || ended(connect)) {
		return Proof{}, err
	}
	for try := 1; ; try++ {
		if err := b.d.relayAtRest(ctx); err != nil {
			return Proof{}, err
		}
		events, _ := seen.all()
		proof, err := b.sendAndCount(ctx)
		if err != nil {
			return Proof{}, err
		}
		after, _ := seen.all()
		if moves(after) == moves(events) && proof.Path() != Unproven || try == proofTries {
			return proof, nil
		}
	}
}

const proofTries = 3

func (b *bench) sendAndCount(ctx context.Context) (Proof, error) {
	before, err := b.d.read(ctx)
	if err != nil {
		return Proof{}, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, b.cfg.timeout(), errTimeout)
	defer cancel()
	if err := sendPayload(wait, b.lab.Node(PeerA), entryAddr); err != nil {
		return Proof{}, err
	}
	after, err := b.d.read(ctx)
	if err != nil {
		return Proof{}, err
	}
	return after.since(before, payloadBytes), nil
}
