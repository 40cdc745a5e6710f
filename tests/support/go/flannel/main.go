// Command flanneld runs flannel's Kubernetes subnet manager with its VXLAN and host-gw backends.
//
// It does what flannel's own main does with --kube-subnet-mgr. That one cannot be built here: it
// needs a C compiler for the UDP backend, and a module of a cloud that the Go proxy does not have.
// It sets no firewall rules.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
)

func main() {
	kubeconfig := flag.String("kubeconfig-file", "", "how to reach the API server")
	netConf := flag.String("net-config-path", "/etc/kube-flannel/net-conf.json", "the network and its backend")
	subnetFile := flag.String("subnet-file", "/run/flannel/subnet.env", "where to write the node's subnet and MTU")
	iface := flag.String("iface", "eth0", "the interface to other nodes")
	publicIP := flag.String("public-ip", "", "the address at which other nodes reach this one")
	flag.Parse()
	if net.ParseIP(*publicIP) == nil {
		log.Fatalf("--public-ip must be an IP address, not %q", *publicIP)
	}

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	manager, err := kube.NewSubnetManager(ctx, "", *kubeconfig, "flannel.alpha.coreos.com", *netConf, true)
	check(err)
	config, err := manager.GetNetworkConfig(ctx)
	check(err)
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	check(err)
	public := ipmatch.PublicIPOpts{PublicIP: *publicIP}
	external, err := ipmatch.LookupExtIface(*iface, "", "", stack, public)
	check(err)
	chosen, err := backend.NewManager(ctx, manager, external).GetBackend(config.BackendType)
	check(err)
	var group sync.WaitGroup
	network, err := chosen.RegisterNetwork(ctx, &group, config)
	check(err)
	lease := network.Lease()
	check(manager.HandleSubnetFile(*subnetFile, config, false, lease.Subnet, lease.IPv6Subnet, network.MTU()))
	group.Add(1)
	go func() {
		defer group.Done()
		network.Run(ctx)
	}()
	check(manager.CompleteLease(ctx, lease, &group))
	group.Wait()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
