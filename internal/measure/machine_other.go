//go:build !linux

package measure

func machineDetails() (cpu, kernel string) { return "", "" }

// residentSize is not known here.
func residentSize() *uint64 { return nil }
