package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dialUDPIn opens a socket in another network namespace, a file such as
// /proc/PID/ns/net; "" is our own. A socket stays where it was opened.
func dialUDPIn(namespace string, to netip.AddrPort) (c *net.UDPConn, err error) {
	dial := func() (err error) {
		if c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		// Without the right to more than the system's limit, that has to do.
		setOption(c, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBytes)
		setOption(c, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBytes)
		return nil
	}
	if namespace == "" {
		return c, dial()
	}
	f, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine: it is in the wrong place for others.
		runtime.LockOSThread()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", namespace, err)
			return
		}
		done <- dial()
	}()
	err = <-done
	return c, err
}
