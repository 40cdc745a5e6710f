// Command gob_peer is Go's side of the metadata tests: it writes and reads a
// member's metadata with encoding/gob, as costela/wesher does.
//
// It answers each line on standard input with one on standard output:
//
//	encode {"kind": "go", "addr": "10.0.0.1", "key": "..."}   ->  hex
//	decode HEX                                                 ->  {"addr": ..., "key": ...} or {"error": ...}
package main

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// nodeMeta is the struct of wesher 0.3 and later (common/node.go): gob sends its name and its fields'.
type nodeMeta struct {
	OverlayAddr netip.Addr
	PubKey      string
}

type request struct {
	Kind  string
	Addr  string
	Key   string
	W     []byte
	Other string
}

func encode(r request) (string, error) {
	var addr netip.Addr
	if r.Addr != "" {
		var err error
		if addr, err = netip.ParseAddr(r.Addr); err != nil {
			return "", err
		}
	}
	var value any
	switch r.Kind {
	case "go":
		value = nodeMeta{addr, r.Key}
	case "ours":
		type nodeMeta struct {
			OverlayAddr netip.Addr
			PubKey      string
			W           []byte
		}
		value = nodeMeta{addr, r.Key, r.W}
	case "go-0.2":
		type nodeMeta struct {
			OverlayAddr net.IPNet
			PubKey      string
		}
		value = nodeMeta{net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}, r.Key}
	case "future":
		// One field of every kind that gob knows, between those that count.
		type point struct{ X, Y int }
		type later struct {
			Flags       []bool
			Table       map[string][]point
			OverlayAddr netip.Addr
			Fixed       [3]int16
			Ratio       float64
			Spiral      complex128
			PubKey      string
			Inner       struct{ Deep struct{ Points []point } }
			Other       string
		}
		l := later{Flags: []bool{true, false}, Table: map[string][]point{"a": {{1, -2}, {}}}, OverlayAddr: addr,
			Fixed: [3]int16{-1, 0, 1}, Ratio: 0.5, Spiral: 1 - 2i, PubKey: r.Key, Other: r.Other}
		l.Inner.Deep.Points = []point{{3, 4}}
		value = l
	case "other-marshaler":
		type nodeMeta struct {
			OverlayAddr netip.Prefix
			PubKey      string
		}
		value = nodeMeta{netip.PrefixFrom(addr, addr.BitLen()), r.Key}
	case "not-a-struct":
		value = r.Key
	default:
		return "", fmt.Errorf("unknown kind %q", r.Kind)
	}
	var out bytes.Buffer
	err := gob.NewEncoder(&out).Encode(value)
	return hex.EncodeToString(out.Bytes()), err
}

func decode(text string) map[string]string {
	data, err := hex.DecodeString(text)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	var meta nodeMeta
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&meta); err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"addr": meta.OverlayAddr.String(), "key": meta.PubKey}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "encode":
			var r request
			if err := json.Unmarshal([]byte(rest), &r); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			text, err := encode(r)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			fmt.Println(text)
		case "decode":
			answer, _ := json.Marshal(decode(rest))
			fmt.Println(string(answer))
		default:
			fmt.Fprintln(os.Stderr, "unknown verb", verb)
			os.Exit(2)
		}
	}
}
