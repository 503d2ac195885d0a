package lab

import (
	"context"
	"path/filepath"
)

// Matrix measures every pair. Results go to each as they come; a pair without a
// result is a cell too. An error is the context's end.
func (s *Sandbox) Matrix(ctx context.Context, cfg Config, each func(Cell)) (Matrix, error) {
	return s.matrix(ctx, Pairs(), cfg, each)
}

// ready is the next lab, made while the one before is measured: making it is mostly
// waiting for packets that a NAT should not let through.
type ready struct {
	t   Topology
	b   *bench
	err error
}

func (s *Sandbox) matrix(ctx context.Context, pairs []Topology, cfg Config, each func(Cell)) (Matrix, error) {
	bin, err := findBinaries(cfg.Bin)
	if err != nil {
		return nil, err
	}
	labs := make(chan ready)
	go func() {
		defer close(labs)
		for _, t := range pairs {
			if ctx.Err() != nil {
				return
			}
			b, err := s.prepare(ctx, t, pairConfig(cfg, t), bin)
			labs <- ready{t, b, err}
		}
	}()
	var m Matrix
	for r := range labs {
		for _, c := range r.cells(ctx) {
			m = append(m, c)
			each(c)
		}
	}
	return m, context.Cause(ctx)
}

// cells measures all runs of one pair.
func (r ready) cells(ctx context.Context) []Cell {
	var out []Cell
	expected := Expected(r.t.A, r.t.B, r.t.SameNAT)
	err := r.err
	if err == nil {
		err = r.b.measureAll(ctx, func(res Result) error {
			out = append(out, Cell{Result: res, Expected: expected})
			return nil
		})
		if closing := r.b.close(); err == nil {
			err = closing
		}
	}
	if err != nil && ctx.Err() == nil {
		failed := Result{A: r.t.A.Name, B: r.t.B.Name, SameNAT: r.t.SameNAT, Path: NoPath}
		if r.t.SameNAT {
			failed.B = failed.A
		}
		out = append(out, Cell{Result: failed, Expected: expected, Error: err.Error()})
	}
	return out
}

// pairConfig gives each pair its own directories.
func pairConfig(cfg Config, t Topology) Config {
	name := t.A.Name + "--" + t.B.Name
	if t.SameNAT {
		name = t.A.Name + "--same-nat"
	}
	for _, dir := range []*string{&cfg.Trace, &cfg.Pcap} {
		if *dir != "" {
			*dir = filepath.Join(*dir, name)
		}
	}
	return cfg
}
