package pgnotify

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

// Lists of hosts are read here, as libpq reads them. lib/pq v1.12.3 accepts several
// ports for one host, combines hosts of PGHOST with those of the DSN, and refuses empty
// items at the beginning of a list.

// A hostList is the combination of host, hostaddr and port. It is not empty.
type hostList []pq.ConfigMultihost

// newHostList combines the three comma-separated lists.
func newHostList(host, hostaddr, port source) (hostList, error) {
	names, addrs, ports := host.items(), hostaddr.items(), port.items()
	n := len(names)
	switch {
	case hostaddr.value != "" && host.value != "" && len(names) != len(addrs):
		return nil, fmt.Errorf("pgnotify: could not match %d host names to %d hostaddr values%s", len(names), len(addrs), variables(host, hostaddr))
	case hostaddr.value != "":
		n = len(addrs)
	}
	if len(ports) > 1 && len(ports) != n {
		return nil, fmt.Errorf("pgnotify: could not match %d port numbers to %d hosts%s", len(ports), n, variables(host, hostaddr, port))
	}
	list := make(hostList, n)
	for i := range list {
		h := &list[i]
		if err := errors.Join(setAddr(h, hostaddr, item(addrs, i)), setPort(h, port, item(ports, min(i, len(ports)-1)))); err != nil {
			return nil, err
		}
		if h.Host = item(names, i); h.Host == "" && !h.Hostaddr.IsValid() {
			h.Host = "localhost"
		}
	}
	return list, nil
}

func (s source) items() []string { return strings.Split(s.value, ",") }

// variables names those sources that are variables of the environment.
func variables(sources ...source) string {
	var names []string
	for _, s := range sources {
		if s.value != "" && s.name[0] == '$' {
			names = append(names, s.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, " and ") + " of the environment)"
}

// item returns the i-th item of a list, or "" if there is none.
func item(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

func setAddr(h *pq.ConfigMultihost, from source, text string) (err error) {
	if text == "" {
		return nil
	}
	if h.Hostaddr, err = netip.ParseAddr(text); err != nil {
		return &opError{"wrong value for " + from.name, fmt.Errorf("%q is not an IP address", text)}
	}
	return nil
}

func setPort(h *pq.ConfigMultihost, from source, text string) error {
	if text == "" {
		h.Port = 5432
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return &opError{"wrong value for " + from.name, fmt.Errorf("%q is not a number from 1 to 65535", text)}
	}
	h.Port = uint16(n)
	return nil
}

// apply makes the servers of the list those of c.
func (l hostList) apply(c *Config) {
	c.Host, c.Hostaddr, c.Port = l[0].Host, l[0].Hostaddr, l[0].Port
	c.Multi = slices.Clone(l[1:])
	if len(c.Multi) == 0 && isUnixHost(c.Host) && !c.Hostaddr.IsValid() {
		c.SSLMode = pq.SSLModeDisable
	}
}
