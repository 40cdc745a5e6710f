// Command attacker does to one address what somebody without the key can do.
//
//	attacker flood -to 192.0.2.1:7946 -rate 20000 -for 60s      junk datagrams
//	attacker hold  -to 192.0.2.1:7946 -from a,b -connections 50  connections that say a byte a second,
//	                                            -fill 1048576    or all but the last of so many at once
//	attacker junk  -to 192.0.2.1:7946 -from a,b -for 60s         connections of junk, one after the other
//
// It prints one JSON object about what it managed, and knows nothing of what the other side is.
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

// target is what all attacks are told.
type target struct {
	network string
	to      string
	from    []net.IP
	length  time.Duration
	fill    int
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "attacker:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return fmt.Errorf("which attack?")
	}
	var (
		flags       = flag.NewFlagSet(arguments[0], flag.ExitOnError)
		to          = flags.String("to", "", "the address and port, or the path of a Unix socket")
		from        = flags.String("from", "", "our own addresses to take turns with, split by commas")
		rate        = flags.Int("rate", 20000, "datagrams a second")
		connections = flags.Int("connections", 50, "connections to keep trying to hold, for each address")
		fill        = flags.Int("fill", 0, "bytes of a frame of which a held connection says all but the last at once")
		length      = flags.Duration("for", 15*time.Second, "how long")
	)
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	at := target{network: "tcp", to: *to, length: *length, fill: *fill}
	if strings.HasPrefix(*to, "/") {
		at.network = "unix"
	}
	for _, text := range strings.Split(*from, ",") {
		// Without any, one that is nil, which leaves the choice to the kernel.
		at.from = append(at.from, net.ParseIP(text))
	}
	var (
		did any
		err error
	)
	switch arguments[0] {
	case "flood":
		did, err = flood(at, *rate)
	case "hold":
		did = hold(at, *connections)
	case "junk":
		did = junk(at)
	default:
		return fmt.Errorf("there is no attack %q", arguments[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(did)
}

// packets returns junk of all kinds that cost a receiver differently much: noise, what looks
// encrypted and so is decrypted in vain, what nests and compresses, all up to the largest.
func packets(dice *rand.Rand) [][]byte {
	var made [][]byte
	for _, size := range []int{0, 1, 13, 29, 30, 64, 100, 200, 400, 800, 1400} {
		for first := 0; first < 16; first++ {
			packet := make([]byte, size)
			dice.Read(packet)
			if size > 0 {
				packet[0] = byte(first)
			}
			made = append(made, packet)
		}
	}
	return made
}

type flooded struct {
	Sent    int     `json:"sent"`
	Failed  int     `json:"failed"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"rate"`
}

func flood(at target, rate int) (flooded, error) {
	connection, err := net.Dial("udp", at.to)
	if err != nil {
		return flooded{}, err
	}
	defer connection.Close()
	var (
		junk  = packets(rand.New(rand.NewSource(1)))
		did   flooded
		began = time.Now()
	)
	for tick := time.NewTicker(time.Millisecond); time.Since(began) < at.length; <-tick.C {
		// What was missed while we did not run is made good, but not all at one moment.
		due := int(time.Since(began).Seconds()*float64(rate)) - did.Sent - did.Failed
		for ; due > 0; due-- {
			if _, err := connection.Write(junk[(did.Sent+did.Failed)%len(junk)]); err != nil {
				did.Failed++
			} else {
				did.Sent++
			}
		}
	}
	did.Seconds = time.Since(began).Seconds()
	did.Rate = float64(did.Sent) / did.Seconds
	return did, nil
}

// life is one connection's time, from its being open for us to its end.
type life struct {
	from       string
	begun, end time.Time
}

type held struct {
	Dialled int `json:"dialled"`
	// MostAtOnce and MostOfOne leave a moment at both ends of each connection out: how soon either
	// side gets to see them says more of how busy the machine is.
	MostAtOnce int `json:"most_at_once"`
	MostOfOne  int `json:"most_of_one"`
	// Longest is the longest life of a connection, in seconds.
	Longest float64 `json:"longest"`
	// Closed counts those that the other side ended.
	Closed int `json:"closed"`
}

const moment = 1500 * time.Millisecond

func hold(at target, connections int) held {
	var (
		lives []life
		mutex sync.Mutex
		group sync.WaitGroup
		until = time.Now().Add(at.length)
		did   held
	)
	for _, address := range at.from {
		for number := 0; number < connections; number++ {
			group.Add(1)
			go func(address net.IP) {
				defer group.Done()
				for time.Now().Before(until) {
					lived, closed := trickle(at, address, until)
					mutex.Lock()
					if !lived.begun.IsZero() {
						lives = append(lives, lived)
						did.Dialled++
						if closed {
							did.Closed++
						}
					}
					mutex.Unlock()
					time.Sleep(50 * time.Millisecond)
				}
			}(address)
		}
	}
	group.Wait()
	byAddress := map[string][]life{}
	var all []life
	for _, one := range lives {
		did.Longest = max(did.Longest, one.end.Sub(one.begun).Seconds())
		one.begun, one.end = one.begun.Add(moment), one.end.Add(-moment)
		if one.begun.Before(one.end) {
			all = append(all, one)
			byAddress[one.from] = append(byAddress[one.from], one)
		}
	}
	did.MostAtOnce = mostAtOnce(all)
	for _, of := range byAddress {
		did.MostOfOne = max(did.MostOfOne, mostAtOnce(of))
	}
	return did
}

// trickle says a byte a second until either side ends it.
func trickle(at target, from net.IP, until time.Time) (life, bool) {
	connection, err := dial(at, from)
	if err != nil {
		return life{}, false
	}
	defer connection.Close()
	one := life{from: from.String(), begun: time.Now()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buffer := make([]byte, 1024); ; {
			if _, err := connection.Read(buffer); err != nil {
				return
			}
		}
	}()
	// What could become an encrypted frame, or an object on a line.
	frame := []byte{10, 0, 0, 200, 0}
	if at.network == "unix" {
		frame = []byte("{ ")
	}
	if at.fill > 0 {
		frame = binary.BigEndian.AppendUint32([]byte{10}, uint32(at.fill))
		_, _ = connection.Write(append(frame, make([]byte, at.fill-1)...))
		select {
		case <-ended:
		case <-time.After(time.Until(until)):
		}
		one.end = time.Now()
		return one, one.end.Before(until)
	}
	for position := 0; ; position++ {
		// A write to what the other side has ended fails in its time; the reader tells of it.
		_, _ = connection.Write([]byte{frame[min(position, len(frame)-1)]})
		select {
		case <-ended:
			one.end = time.Now()
			return one, true
		case <-time.After(min(time.Second, time.Until(until))):
		}
		if time.Now().After(until) {
			one.end = time.Now()
			return one, false
		}
	}
}

type junked struct {
	Dialled int `json:"dialled"`
	Sent    int `json:"sent"`
}

func junk(at target) junked {
	var (
		did   junked
		mutex sync.Mutex
		group sync.WaitGroup
		until = time.Now().Add(at.length)
	)
	for number, address := range at.from {
		group.Add(1)
		go func(address net.IP, dice *rand.Rand) {
			defer group.Done()
			for time.Now().Before(until) {
				connection, err := dial(at, address)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				noise := make([]byte, 1<<dice.Intn(21))
				dice.Read(noise)
				// As a frame's type or an object's beginning, or as nothing at all.
				noise[0] = []byte{10, 244, '{', 6, noise[0]}[dice.Intn(5)]
				_ = connection.SetDeadline(time.Now().Add(time.Second))
				sent, _ := connection.Write(noise)
				_, _ = connection.Read(noise)
				connection.Close()
				mutex.Lock()
				did.Dialled++
				did.Sent += sent
				mutex.Unlock()
			}
		}(address, rand.New(rand.NewSource(int64(number))))
	}
	group.Wait()
	return did
}

func dial(at target, from net.IP) (net.Conn, error) {
	dialer := net.Dialer{Timeout: time.Second}
	if from != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: from}
	}
	return dialer.Dial(at.network, at.to)
}

// mostAtOnce returns how many of the lives overlapped at most.
func mostAtOnce(lives []life) int {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	for _, one := range lives {
		changes = append(changes, change{one.begun, 1}, change{one.end, -1})
	}
	sort.Slice(changes, func(i, j int) bool { return changes[i].at.Before(changes[j].at) })
	most, now := 0, 0
	for _, one := range changes {
		now += one.by
		most = max(most, now)
	}
	return most
}
