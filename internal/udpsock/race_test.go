//go:build race

package udpsock

// The race detector has sync.Pool drop things on purpose.
const raceDetector = true
