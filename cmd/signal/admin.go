package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

// stats is what /stats shows: the relay's counters at the top, signaling's
// under sessions. A half that is not served is absent.
type stats struct {
	*relay.Stats
	Sessions *signaling.Stats `json:"sessions,omitempty"`
}

// adminHandler serves counters and events. It has no authentication, so it
// answers only when it is addressed by IP or as localhost: a web page whose
// name was pointed at it (DNS rebinding) gets nothing.
func (d *deployment) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		var s stats
		if d.relay != nil {
			rs := d.relay.Stats()
			s.Stats = &rs
		}
		if d.signaling != nil {
			ss := d.signaling.Stats()
			s.Sessions = &ss
		}
		writeJSON(w, s)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, _ *http.Request) {
		events := []relay.Event{}
		if d.relay != nil {
			events = append(events, d.relay.Events()...)
		}
		writeJSON(w, events)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !literalHost(r.Host) {
			http.Error(w, "use the IP address", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (d *deployment) adminServer() *http.Server {
	return &http.Server{
		Handler:           d.adminHandler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
}

// literalHost tells whether a Host header is an IP address or localhost, with
// or without a port.
func literalHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	json.NewEncoder(w).Encode(v) // a client that went away is its own problem
}
