//go:build !race

package udpsock

const raceDetector = false
