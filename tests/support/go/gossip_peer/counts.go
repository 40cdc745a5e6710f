package main

import (
	"crypto/aes"
	"crypto/cipher"
	"maps"
	"sync"

	"github.com/hashicorp/memberlist"
)

// The first bytes of memberlist's wrappers (net.go, messageType).
const (
	compoundMsg = 7
	compressMsg = 9
	encryptMsg  = 10
	hasCrcMsg   = 12
	hasLabelMsg = 244
)

// counts says how often each wrapper was met on what arrived here.
type counts struct {
	ring  *memberlist.Keyring
	label string
	mu    sync.Mutex
	met   map[string]int
}

func newCounts(ring *memberlist.Keyring, label string) *counts {
	return &counts{ring: ring, label: label, met: map[string]int{}}
}

func (c *counts) snapshot() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.met)
}

func (c *counts) add(wrapper string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met[wrapper]++
}

func (c *counts) datagram(buf []byte) {
	c.add("datagram")
	buf = c.afterLabel(buf)
	if c.ring != nil {
		if buf = c.decrypt(buf); buf == nil {
			return
		}
	}
	if len(buf) > 5 && buf[0] == hasCrcMsg {
		c.add("checksum")
		buf = buf[5:]
	}
	c.first(buf)
}

// stream looks only as far as the first read shows it: not into encrypted frames.
func (c *counts) stream(buf []byte) {
	c.add("stream")
	buf = c.afterLabel(buf)
	if len(buf) > 5 && buf[0] == encryptMsg {
		c.add([...]string{"stream-encryption-0", "stream-encryption-1"}[buf[5]&1])
		return
	}
	if len(buf) > 0 && buf[0] == compressMsg {
		c.add("stream-compression")
	}
}

func (c *counts) afterLabel(buf []byte) []byte {
	if len(buf) < 2 || buf[0] != hasLabelMsg || len(buf) < 2+int(buf[1]) {
		return buf
	}
	c.add("label")
	return buf[2+int(buf[1]):]
}

func (c *counts) first(buf []byte) {
	if len(buf) == 0 {
		return
	}
	switch buf[0] {
	case compressMsg:
		c.add("compression")
	case compoundMsg:
		c.add("compound")
	}
}

func (c *counts) decrypt(buf []byte) []byte {
	if len(buf) < 29 {
		return nil
	}
	for _, key := range c.ring.GetKeys() {
		block, err := aes.NewCipher(key)
		if err != nil {
			continue
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			continue
		}
		if plain, err := gcm.Open(nil, buf[1:13], buf[13:], []byte(c.label)); err == nil {
			c.add([...]string{"encryption-0", "encryption-1"}[buf[0]&1])
			return plain
		}
	}
	return nil
}
