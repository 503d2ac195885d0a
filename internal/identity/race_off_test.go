//go:build !race

package identity

// middleRuns is how often the hostile server tries.
const middleRuns = 10_000
