package cli

import (
	"os"
	"runtime"
)

// LimitProcs has the program use half of the processors, one at least, unless
// $GOMAXPROCS says otherwise.
//
// A packet passes five goroutines of an agent on its way, all of one link and
// mostly one after the other. Spread over all processors each of these steps
// wakes another thread, and idle ones spin to be ready for it: on two processors
// that took 1.5 times the CPU for the same bytes (3.7 against 2.5 s per GB), and
// left less for the kernel's part of the work, so that less got through. On a
// relay that part is the greater one.
func LimitProcs() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
}
