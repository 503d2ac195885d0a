package forward

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// A Spec is one forward in ssh's words: [bind:]port:host:port.
type Spec struct {
	// Bind is the HOST:PORT to listen on: "localhost", unless given, for both
	// loopbacks, empty for every address of both families, 0.0.0.0 for every
	// one of IPv4, else an address.
	Bind   string
	Target string // HOST:PORT to dial on the other side
}

// String returns the spec with its bind address written out.
func (s Spec) String() string { return s.Bind + ":" + s.Target }

// ParseSpec reads [bind:]port:host:port. IPv6 addresses stand in brackets; a
// bind of "*" means all addresses of both families; a port of 0 to listen on picks
// a free one.
func ParseSpec(text string) (Spec, error) {
	bad := func(why string) (Spec, error) {
		return Spec{}, fmt.Errorf("forward %q: %s; write [bind:]port:host:port, for example 8080:localhost:80", text, why)
	}
	parts, err := splitColons(text)
	if err != nil {
		return bad(err.Error())
	}
	bind := "localhost"
	switch len(parts) {
	case 3:
	case 4:
		bind, parts = parts[0], parts[1:]
	default:
		return bad(shape(len(parts)))
	}
	if bind == "*" {
		bind = ""
	}
	if _, err := parsePort(parts[0], 0); err != nil {
		return bad("port to listen on: " + err.Error())
	}
	if _, err := parsePort(parts[2], 1); err != nil {
		return bad("target port: " + err.Error())
	}
	if parts[1] == "" {
		return bad("no target host")
	}
	return Spec{net.JoinHostPort(bind, parts[0]), net.JoinHostPort(parts[1], parts[2])}, nil
}

// shape says what is wrong with a forward of so many parts.
func shape(parts int) string {
	switch parts {
	case 1:
		return "it has no target"
	case 2:
		return "it lacks the port to listen on, or the target's host or port"
	}
	return "it has too many colons; an IPv6 address stands in brackets, for example [::1]"
}

// splitColons splits at colons outside of brackets and takes the brackets off.
func splitColons(s string) ([]string, error) {
	var parts []string
	for {
		var part string
		if rest, ok := strings.CutPrefix(s, "["); ok {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, fmt.Errorf("a [ without ]")
			}
			part, s = rest[:end], rest[end+1:]
			if s != "" && s[0] != ':' {
				return nil, fmt.Errorf("%q after ]", s)
			}
		} else {
			end := strings.IndexByte(s, ':')
			if end < 0 {
				return append(parts, s), nil
			}
			part, s = s[:end], s[end:]
		}
		parts = append(parts, part)
		if s == "" {
			return parts, nil
		}
		s = s[1:]
	}
}

func parsePort(s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > 65535 {
		return 0, fmt.Errorf("%q is not a port (%d to 65535)", s, least)
	}
	return n, nil
}
