// Command gossip_peer is one member of a memberlist mesh, for tests to talk to.
//
// Flags say what it is; lines on standard input tell it what to do; every event
// and every answer is one JSON object on a line of standard output. The end of
// standard input ends it without leaving, as a crash would.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

func main() {
	if err := run(os.Stdin, &jsonLines{to: os.Stdout}); err != nil {
		fmt.Fprintln(os.Stderr, "gossip_peer:", err)
		os.Exit(1)
	}
}

func run(commands io.Reader, out *jsonLines) error {
	var (
		name     = flag.String("name", "", "the member's name")
		bind     = flag.String("bind", "127.0.0.1", "the address to listen on")
		port     = flag.Int("port", 7946, "the UDP and TCP port")
		profile  = flag.String("profile", "lan", "lan, wan or local")
		interval = flag.Duration("probe-interval", 0, "between two probes, other than the profile's")
		timeout  = flag.Duration("probe-timeout", 0, "for the direct ping of a probe, other than the profile's")
		keys     = flag.String("keys", "", "the key ring in hex, primary first, split by commas")
		label    = flag.String("label", "", "the label of packets and streams")
		compress = flag.Bool("compress", true, "send compressed what gets smaller by it")
		protocol = flag.Int("protocol", 2, "the protocol to speak; 1 encrypts in version 0")
		meta     = flag.String("meta", "", "the metadata in hex")
		state    = flag.String("state", "", "the user state of push/pulls in hex")
		mapped   = flag.Bool("mapped", false, "write the own IPv4 address in 16 bytes, as a member bound to 0.0.0.0 does")
		tcpPings = flag.Bool("tcp-pings", true, "fall back to pings over TCP")
		verbose  = flag.Bool("verbose", false, "write memberlist's log to standard error")
	)
	flag.Parse()

	config, err := configFor(*profile)
	if err != nil {
		return err
	}
	config.Name = *name
	config.BindAddr, config.AdvertiseAddr = *bind, *bind
	config.BindPort, config.AdvertisePort = *port, *port
	if *interval != 0 {
		config.ProbeInterval = *interval
	}
	if *timeout != 0 {
		config.ProbeTimeout = *timeout
	}
	config.Label = *label
	config.EnableCompression = *compress
	config.ProtocolVersion = uint8(*protocol)
	config.DisableTcpPings = !*tcpPings
	config.Logger = log.New(io.Discard, "", 0)
	if *verbose {
		config.Logger = log.New(os.Stderr, *name+" ", log.Lmicroseconds)
	}
	ring, err := parseKeys(*keys)
	if err != nil {
		return err
	}
	config.Keyring = ring

	member := &member{out: out}
	if member.meta, err = hex.DecodeString(*meta); err != nil {
		return err
	}
	if member.state, err = hex.DecodeString(*state); err != nil {
		return err
	}
	config.Delegate, config.Events, config.Conflict = member, member, member

	transport, err := newTransport(config, ring, *mapped)
	if err != nil {
		return err
	}
	config.Transport = transport

	list, err := memberlist.Create(config)
	if err != nil {
		return err
	}
	out.write(event{"event": "ready", "name": *name})
	return obey(commands, list, member, transport, out)
}

func configFor(profile string) (*memberlist.Config, error) {
	switch profile {
	case "lan":
		return memberlist.DefaultLANConfig(), nil
	case "wan":
		return memberlist.DefaultWANConfig(), nil
	case "local":
		return memberlist.DefaultLocalConfig(), nil
	}
	return nil, fmt.Errorf("-profile %q: lan, wan or local", profile)
}

func parseKeys(list string) (*memberlist.Keyring, error) {
	if list == "" {
		return nil, nil
	}
	var keys [][]byte
	for _, text := range strings.Split(list, ",") {
		key, err := hex.DecodeString(text)
		if err != nil {
			return nil, errors.New("-keys: not hex")
		}
		keys = append(keys, key)
	}
	return memberlist.NewKeyring(keys, keys[0])
}

// obey carries out one command a line; each is answered by one object with its "answer".
func obey(commands io.Reader, list *memberlist.Memberlist, m *member, t *transport, out *jsonLines) error {
	lines := bufio.NewScanner(commands)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		answer, err := obeyOne(words[0], words[1:], list, m, t)
		if answer == nil {
			answer = event{}
		}
		answer["answer"] = words[0]
		if err != nil {
			answer["error"] = err.Error()
		}
		out.write(answer)
	}
	return lines.Err()
}

func obeyOne(verb string, args []string, list *memberlist.Memberlist, m *member, t *transport) (event, error) {
	arg := func(place int) string {
		if place < len(args) {
			return args[place]
		}
		return ""
	}
	switch verb {
	case "join":
		joined, err := list.Join(args)
		return event{"joined": joined}, err
	case "members":
		members := []event{}
		for _, node := range list.Members() {
			members = append(members, describe(node))
		}
		return event{"members": members, "health": list.GetHealthScore()}, nil
	case "meta":
		meta, err := hex.DecodeString(arg(0))
		if err != nil {
			return nil, err
		}
		m.setMeta(meta)
		return nil, list.UpdateNode(10 * time.Second)
	case "send", "send-reliable":
		payload, err := hex.DecodeString(arg(1))
		if err != nil {
			return nil, err
		}
		for _, node := range list.Members() {
			if node.Name != arg(0) {
				continue
			}
			if verb == "send" {
				return nil, list.SendBestEffort(node, payload)
			}
			return nil, list.SendReliable(node, payload)
		}
		return nil, fmt.Errorf("no member %q", arg(0))
	case "udp":
		t.udpOff.Store(arg(0) == "off")
		return nil, nil
	case "tcp":
		t.tcpOff.Store(arg(0) == "off")
		return nil, nil
	case "wrappers":
		return event{"received": t.counts.snapshot()}, nil
	case "leave":
		return nil, list.Leave(30 * time.Second)
	}
	return nil, fmt.Errorf("no command %q", verb)
}

// member is what memberlist asks about us and tells us.
type member struct {
	out   *jsonLines
	mu    sync.Mutex
	meta  []byte
	state []byte
}

func (m *member) setMeta(meta []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meta = meta
}

func (m *member) NodeMeta(int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta
}

func (m *member) LocalState(bool) []byte           { return m.state }
func (m *member) GetBroadcasts(int, int) [][]byte  { return nil }
func (m *member) NotifyJoin(node *memberlist.Node) { m.tell("join", node) }
func (m *member) NotifyLeave(node *memberlist.Node) {
	m.tell("leave", node)
}
func (m *member) NotifyUpdate(node *memberlist.Node) { m.tell("update", node) }
func (m *member) NotifyConflict(_, other *memberlist.Node) {
	m.tell("conflict", other)
}

func (m *member) NotifyMsg(payload []byte) {
	m.out.write(event{"event": "user", "payload": hex.EncodeToString(payload)})
}

func (m *member) MergeRemoteState(state []byte, join bool) {
	m.out.write(event{"event": "state", "payload": hex.EncodeToString(state), "join": join})
}

func (m *member) tell(what string, node *memberlist.Node) {
	told := describe(node)
	told["event"] = what
	m.out.write(told)
}

func describe(node *memberlist.Node) event {
	return event{
		"name": node.Name,
		"addr": node.Addr.String(),
		"port": node.Port,
		"meta": hex.EncodeToString(node.Meta),
		"vsn":  []int{int(node.PMin), int(node.PMax), int(node.PCur), int(node.DMin), int(node.DMax), int(node.DCur)},
	}
}

type event map[string]any

// jsonLines writes one object a line, whole, from any goroutine.
type jsonLines struct {
	mu sync.Mutex
	to io.Writer
}

func (w *jsonLines) write(what event) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to.Write(append(line, '\n'))
}
