//go:build race

package identity

// middleRuns is smaller under the race detector, which makes the arithmetic an
// order of magnitude slower and finds its races in the first runs.
const middleRuns = 1_500
