package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// secretLines reads the secrets in a file, one a line, and makes the file with
// a random one where it is absent. Both halves of a deployment may do so at
// the same time: the file appears whole or not at all, and who comes second
// reads what the first wrote.
func secretLines(path string) (secrets [][]byte, made bool, err error) {
	sweep(filepath.Dir(path))
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		made = true
		if err = createSecret(path); err == nil {
			b, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return nil, false, err
	}
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			secrets = append(secrets, line)
		}
	}
	if len(secrets) == 0 {
		return nil, false, fmt.Errorf("secret file %s: empty", path)
	}
	return secrets, made, nil
}

func createSecret(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	random := make([]byte, 24)
	rand.Read(random)
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(random) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write secret file %s: %w", path, err)
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// sweep removes what killed processes have left of createSecret, which takes no
// minute.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir) // what cannot be listed is left
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), ".secret-")
		if !ours || number == "" || strings.Trim(number, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// readable tells whether others on this machine can read the file.
func readable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o044 != 0
}
