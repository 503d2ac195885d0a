// Package cli is what both programs do alike on their command lines and at their
// start, and what they say of a port that they cannot open. It knows no other
// package.
package cli
