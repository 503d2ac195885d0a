package main

import "testing"

// deliver tells the window that everything on the way has arrived, less some.
func deliver(w *window, lost int) {
	n := w.room()
	w.took(n)
	w.heard(w.sent, w.lost+uint64(lost))
}

func TestWindowGrows(t *testing.T) {
	w := newWindow(100)
	for range 3 {
		before := w.room()
		deliver(w, 0)
		if got := w.room(); got != 2*before {
			t.Fatalf("room for %d after %d arrived, want twice as much", got, before)
		}
	}
	deliver(w, 0)
	if got := w.room(); got != 100 {
		t.Errorf("room for %d, want no more than 100", got)
	}
}

func TestWindowShrinksOncePerLoss(t *testing.T) {
	w := newWindow(100)
	for range 4 {
		deliver(w, 0)
	}
	n := w.room()
	w.took(n)
	w.heard(w.sent-50, 1) // the first half, and one of them missing
	w.heard(w.sent, 2)    // the second half was on the way by then
	if w.size < 50 || w.size > 52 {
		t.Errorf("size %v after two losses of one window, want half of 100 and a little", w.size)
	}
	before := w.size
	deliver(w, 0)
	if w.size <= before || w.size > before+2 {
		t.Errorf("size %v after %v arrived, want one more", w.size, before)
	}
}

func TestWindowStalls(t *testing.T) {
	w := newWindow(100)
	w.took(w.room())
	if w.room() != 0 {
		t.Fatalf("room for %d more", w.room())
	}
	for range 10 {
		w.stalled()
		if w.room() < leastWindow {
			t.Fatalf("room for %d after a stall", w.room())
		}
		w.took(w.room())
	}
	w.stalled()
	room := w.room()
	w.heard(w.sent-1, 5) // late news of what was given up
	if w.room() != room {
		t.Errorf("room for %d, and before the late news for %d", w.room(), room)
	}
}
