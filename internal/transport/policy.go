package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// systemRoots is the sslrootcert that stands for the system's certificates.
const systemRoots = "system"

var sslModes = []pq.SSLMode{
	pq.SSLModeDisable, pq.SSLModeAllow, pq.SSLModePrefer,
	pq.SSLModeRequire, pq.SSLModeVerifyCA, pq.SSLModeVerifyFull,
}

// Policy says whether TLS is spoken and how. [NewPolicy] makes it, once for a
// connector. It is immutable and safe for concurrent use.
//
// Certificate files are read anew for each connection, when the server has
// agreed to TLS: renewed certificates are picked up, and a broken file is an
// error of [PhaseHandshake] that sslmode=prefer survives, as in libpq.
type Policy struct {
	mode       pq.SSLMode
	direct     bool        // sslnegotiation=direct
	custom     *tls.Config // never changed; if not nil, nothing below counts
	sni        bool
	minVersion uint16
	maxVersion uint16 // 0: the newest
	files      files
}

// NewPolicy makes the policy of cfg. custom, which is cloned and may be nil, replaces
// all of cfg's TLS settings except sslmode and sslnegotiation. Fields that custom
// leaves open are filled in for each connection: ServerName with the host (or its
// address), NextProtos with "postgresql".
//
// It is an error if settings contradict each other or are unknown. Files are not
// examined; see [Policy].
//
// [pq.NewConfig] sets SSLMode to disable if the first host is a Unix socket, whatever
// was asked for, and so for the other hosts too. A caller with a list of both must
// restore the original mode. With custom, NewPolicy treats such a disable as not given.
func NewPolicy(cfg *pq.Config, custom *tls.Config) (*Policy, error) {
	p := &Policy{sni: cfg.SSLSNI, files: newFiles(cfg)}
	var err error
	if p.direct, err = isDirect(cfg.SSLNegotiation); err != nil {
		return nil, err
	}
	if p.mode, err = effectiveMode(cfg, p.direct, custom != nil); err != nil {
		return nil, err
	}
	if custom != nil {
		p.custom = custom.Clone()
		return p, nil
	}
	if p.minVersion, p.maxVersion, err = versions(cfg); err != nil {
		return nil, err
	}
	if err = p.files.check(p.mode); err != nil {
		return nil, err
	}
	return p, nil
}

// isDirect reads sslnegotiation.
func isDirect(n pq.SSLNegotiation) (bool, error) {
	switch n {
	case "", pq.SSLNegotiationPostgres:
		return false, nil
	case pq.SSLNegotiationDirect:
		return true, nil
	}
	return false, fmt.Errorf(`pgnotify: unknown sslnegotiation %q: use "postgres" or "direct"`, n)
}

// effectiveMode resolves the default of sslmode and refuses what contradicts
// the other settings.
func effectiveMode(cfg *pq.Config, direct, custom bool) (pq.SSLMode, error) {
	mode := cfg.SSLMode
	unixFirst := newEndpoint(cfg.Host, cfg.Hostaddr, cfg.Port).Unix()
	if custom && mode == pq.SSLModeDisable && unixFirst {
		mode = ""
	}
	if mode == "" {
		return defaultMode(cfg, direct, custom), nil
	}
	switch {
	case strings.HasPrefix(string(mode), "pqgo-"):
		return "", fmt.Errorf("pgnotify: sslmode=%s: configurations registered with lib/pq are not used: "+
			"set Config.TLSConfig instead", mode)
	case !slices.Contains(sslModes, mode):
		return "", fmt.Errorf("pgnotify: unknown sslmode %q: use one of %s", mode, quoted(sslModes))
	case custom && mode == pq.SSLModeDisable:
		return "", errors.New("pgnotify: Config.TLSConfig is set, but sslmode=disable would never use it")
	case direct && isWeak(mode) && !(unixFirst && mode == pq.SSLModeDisable):
		return "", fmt.Errorf(`pgnotify: weak sslmode %q may not be used with sslnegotiation=direct: `+
			`use "require", "verify-ca" or "verify-full"`, mode)
	}
	return mode, nil
}

// defaultMode returns the mode to use if none was given.
func defaultMode(cfg *pq.Config, direct, custom bool) pq.SSLMode {
	switch {
	case custom:
		return pq.SSLModeRequire
	case cfg.SSLRootCert == systemRoots:
		return pq.SSLModeVerifyFull
	case direct:
		return pq.SSLModeRequire
	}
	return pq.SSLModePrefer
}

// isWeak reports whether mode may end without TLS.
func isWeak(mode pq.SSLMode) bool {
	return mode == pq.SSLModeDisable || mode == pq.SSLModeAllow || mode == pq.SSLModePrefer
}

// isVerifying reports whether mode cannot do without root certificates.
func isVerifying(mode pq.SSLMode) bool {
	return mode == pq.SSLModeVerifyCA || mode == pq.SSLModeVerifyFull
}

// verifies reports whether no connection is made under TLS unless the server's certificate
// is verified.
func (p *Policy) verifies() bool {
	if p.custom != nil {
		return !p.custom.InsecureSkipVerify
	}
	return isVerifying(p.mode)
}

// versions returns the range of TLS versions. If no minimum is given, it is 1.2 as in
// libpq, even if that contradicts the maximum.
func versions(cfg *pq.Config) (lowest, highest uint16, err error) {
	lowest, err = version("ssl_min_protocol_version", cfg.SSLMinProtocolVersion)
	if err != nil {
		return 0, 0, err
	}
	highest, err = version("ssl_max_protocol_version", cfg.SSLMaxProtocolVersion)
	if err != nil {
		return 0, 0, err
	}
	if lowest == 0 {
		lowest = tls.VersionTLS12
	}
	if highest != 0 && lowest > highest {
		return 0, 0, fmt.Errorf("pgnotify: ssl_min_protocol_version (%s) is above ssl_max_protocol_version (%s)",
			tls.VersionName(lowest), tls.VersionName(highest))
	}
	return lowest, highest, nil
}

// version reads one setting. Case does not matter, as in libpq.
func version(setting string, v pq.SSLProtocolVersion) (uint16, error) {
	switch strings.ToLower(string(v)) {
	case "":
		return 0, nil
	case "tlsv1", "tlsv1.0":
		return tls.VersionTLS10, nil
	case "tlsv1.1":
		return tls.VersionTLS11, nil
	case "tlsv1.2":
		return tls.VersionTLS12, nil
	case "tlsv1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("pgnotify: unknown %s %q: use TLSv1.0, TLSv1.1, TLSv1.2 or TLSv1.3", setting, v)
}

func quoted[S ~string](list []S) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", string(s))
	}
	return b.String()
}

// sequence returns the encryptions to try with e, in order. A Unix socket is always
// plain, so its presence in a list does not affect the other hosts.
func (p *Policy) sequence(e Endpoint) []Encryption {
	if e.Unix() {
		return []Encryption{Plain}
	}
	switch p.mode {
	case pq.SSLModeDisable:
		return []Encryption{Plain}
	case pq.SSLModeAllow:
		return []Encryption{Plain, Required}
	case pq.SSLModePrefer:
		return []Encryption{Opportunistic, Plain}
	}
	return []Encryption{Required}
}
