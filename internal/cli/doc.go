// Package cli is what both programs do alike on their command lines and at their
// start. It knows no other package.
package cli
