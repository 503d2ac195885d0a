//go:build !unix

package agent

import "io/fs"

// ownedByUs cannot be told here.
func ownedByUs(fs.FileInfo) bool { return true }
