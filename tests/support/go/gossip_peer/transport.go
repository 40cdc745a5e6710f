package main

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's own, with switches that cut UDP or TCP in both
// directions, and a count of the wrappers round whatever arrives.
type transport struct {
	*memberlist.NetTransport
	udpOff, tcpOff atomic.Bool
	mapped         bool
	counts         *counts
	packets        chan *memberlist.Packet
	streams        chan net.Conn
}

var errCut = errors.New("cut by the test")

func newTransport(config *memberlist.Config, ring *memberlist.Keyring, mapped bool) (*transport, error) {
	inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{config.BindAddr},
		BindPort:  config.BindPort,
		Logger:    config.Logger,
	})
	if err != nil {
		return nil, err
	}
	t := &transport{
		NetTransport: inner,
		mapped:       mapped,
		counts:       newCounts(ring, config.Label),
		packets:      make(chan *memberlist.Packet),
		streams:      make(chan net.Conn),
	}
	go func() {
		for packet := range inner.PacketCh() {
			if !t.udpOff.Load() {
				t.counts.datagram(packet.Buf)
				t.packets <- packet
			}
		}
	}()
	go func() {
		for conn := range inner.StreamCh() {
			if t.tcpOff.Load() {
				conn.Close()
				continue
			}
			t.streams <- &countedConn{Conn: conn, counts: t.counts}
		}
	}()
	return t, nil
}

func (t *transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	addr, port, err := t.NetTransport.FinalAdvertiseAddr(ip, port)
	if t.mapped {
		addr = addr.To16()
	}
	return addr, port, err
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	if t.udpOff.Load() {
		return time.Now(), nil
	}
	return t.NetTransport.WriteToAddress(b, addr)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if t.tcpOff.Load() {
		return nil, errCut
	}
	conn, err := t.NetTransport.DialAddressTimeout(addr, timeout)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn, counts: t.counts}, nil
}

// countedConn counts the wrappers at the head of what is read from it.
type countedConn struct {
	net.Conn
	counts *counts
	seen   bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.seen {
		c.seen = true
		c.counts.stream(b[:n])
	}
	return n, err
}
