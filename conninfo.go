package pgnotify

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// A libpqParameter says what pgnotify does with a parameter of libpq.
type libpqParameter struct {
	variable string // its environment variable, if there is one
	secret   bool   // its value must not be shown, nor sent as it is

	// refused says why the parameter is not supported; empty if it is. One that is not
	// may still be blank, or have a value that asks for what happens anyway.
	refused  string
	harmless []string
}

// libpqParameters are all parameters of libpq, up to PostgreSQL 18, and some that older
// versions knew. What lib/pq does not know it would send to the server as a setting, and
// what protects would not do so. None of these may be sent, except for replication, which
// libpq sends too.
// https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
var libpqParameters = map[string]libpqParameter{
	"application_name":          {variable: "PGAPPNAME"},
	"channel_binding":           {variable: "PGCHANNELBINDING"},
	"client_encoding":           {variable: "PGCLIENTENCODING"},
	"connect_timeout":           {variable: "PGCONNECT_TIMEOUT"},
	"dbname":                    {variable: "PGDATABASE"},
	"fallback_application_name": {},
	"host":                      {variable: "PGHOST"},
	"hostaddr":                  {variable: "PGHOSTADDR"},
	"keepalives":                {},
	"keepalives_count":          {},
	"keepalives_idle":           {},
	"keepalives_interval":       {},
	"krbsrvname":                {variable: "PGKRBSRVNAME"},
	"load_balance_hosts":        {variable: "PGLOADBALANCEHOSTS"},
	"max_protocol_version":      {variable: "PGMAXPROTOCOLVERSION"},
	"min_protocol_version":      {variable: "PGMINPROTOCOLVERSION"},
	"options":                   {variable: "PGOPTIONS"},
	"passfile":                  {variable: "PGPASSFILE"},
	"password":                  {variable: "PGPASSWORD", secret: true},
	"port":                      {variable: "PGPORT"},
	"replication":               {},
	"service":                   {variable: "PGSERVICE"},
	"servicefile":               {variable: "PGSERVICEFILE"},
	"ssl_max_protocol_version":  {variable: "PGSSLMAXPROTOCOLVERSION"},
	"ssl_min_protocol_version":  {variable: "PGSSLMINPROTOCOLVERSION"},
	"sslcert":                   {variable: "PGSSLCERT"},
	"sslkey":                    {variable: "PGSSLKEY"},
	"sslmode":                   {variable: "PGSSLMODE"},
	"sslnegotiation":            {variable: "PGSSLNEGOTIATION"},
	"sslrootcert":               {variable: "PGSSLROOTCERT"},
	"sslsni":                    {variable: "PGSSLSNI"},
	"target_session_attrs":      {variable: "PGTARGETSESSIONATTRS"},
	"tcp_user_timeout":          {},
	"user":                      {variable: "PGUSER"},

	// They protect.
	"require_auth": {variable: "PGREQUIREAUTH", refused: "the server chooses how it authenticates"},
	"requirepeer":  {variable: "PGREQUIREPEER", refused: "the owner of the server's process is not checked"},
	"sslcertmode":  {variable: "PGSSLCERTMODE", refused: "a client certificate is sent if there is one and the server asks for it", harmless: []string{"allow"}},
	"sslcrl":       {variable: "PGSSLCRL", refused: "revocation lists are not read; Config.TLSConfig can verify certificates in any way"},
	"sslcrldir":    {variable: "PGSSLCRLDIR", refused: "revocation lists are not read; Config.TLSConfig can verify certificates in any way"},
	"gssencmode":   {variable: "PGGSSENCMODE", refused: "there is no encryption by GSSAPI", harmless: []string{"disable", "prefer"}},
	"requiressl":   {variable: "PGREQUIRESSL", refused: "use sslmode=require"},
	"ssl":          {refused: "use sslmode=require"},

	// They are secret, or lead to secrets.
	"oauth_client_secret": {secret: true, refused: "there is no authentication by OAuth"},
	"scram_client_key":    {secret: true, refused: "give the password"},
	"scram_server_key":    {secret: true, refused: "give the password"},
	"sslkeylogfile":       {refused: "Config.TLSConfig has KeyLogWriter"},
	"sslpassword":         {secret: true, refused: "decrypt the key, or load it into Config.TLSConfig"},

	"authtype":        {refused: "no version of PostgreSQL in use knows it"},
	"gssdelegation":   {variable: "PGGSSDELEGATION", refused: "credentials are not delegated", harmless: []string{"0"}},
	"gsslib":          {variable: "PGGSSLIB", refused: "the library for GSSAPI is that of the program", harmless: []string{"gssapi"}},
	"oauth_client_id": {refused: "there is no authentication by OAuth"},
	"oauth_issuer":    {refused: "there is no authentication by OAuth"},
	"oauth_scope":     {refused: "there is no authentication by OAuth"},
	"sslcompression":  {variable: "PGSSLCOMPRESSION", refused: "TLS is not compressed", harmless: []string{"0"}},
	"tty":             {refused: "no version of PostgreSQL in use knows it"},
}

// check returns an error if the parameter, which has the given name in the DSN or the
// environment, may not have a value.
func (p libpqParameter) check(name, value string) error {
	switch {
	case p.refused == "" || value == "" || slices.Contains(p.harmless, value):
		return nil
	case len(p.harmless) > 0:
		name += ", except as " + strings.Join(p.harmless, " or ") + ","
	}
	return fmt.Errorf("pgnotify: %s is %w: %s", name, errUnsupported, p.refused)
}

// errUnsupported is ErrNotSupported for the middle of a text.
var errUnsupported error = unsupportedError{}

type unsupportedError struct{}

func (unsupportedError) Error() string { return "not supported" }

func (unsupportedError) Unwrap() error { return ErrNotSupported }

// checkParameters refuses parameters and variables that are not supported, and drops
// those whose value changes nothing.
func (s settings) checkParameters() error {
	for _, name := range slices.Sorted(maps.Keys(libpqParameters)) {
		p := libpqParameters[name]
		value, ok := s[name]
		if !ok && p.variable != "" {
			name, value = "$"+p.variable, os.Getenv(p.variable)
		}
		if err := p.check(name, value); err != nil {
			return err
		}
		if p.refused != "" {
			delete(s, name)
		}
	}
	return nil
}

// checkRuntime refuses settings for the server that are meant for the client, by the
// names that have another case or, with secrets, a mistake in them too.
func checkRuntime(runtime map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(runtime)) {
		meant := strings.ToLower(name)
		if isClientParameter(meant) {
			if err := libpqParameters[meant].check(meant, "x"); err != nil {
				return err
			}
		} else if meant = nearestParameter(name); !libpqParameters[meant].secret {
			continue
		}
		return fmt.Errorf("pgnotify: %.80q is not a setting of the server; if %s is meant, write it so in the DSN, or set the field of Config", name, meant)
	}
	return nil
}

// isClientParameter reports whether a parameter is none that a server takes.
func isClientParameter(name string) bool {
	switch name {
	case "application_name", "datestyle", "geqo", "replication":
		return false
	}
	return isParameter(name)
}

// isParameter reports whether libpq, lib/pq or pgnotify has a parameter of that name.
func isParameter(name string) bool {
	_, ours := parameters[name]
	_, libpqs := libpqParameters[name]
	return ours || libpqs || slices.Contains(libParameters, name)
}

// checkNUL is checkStrings for settings that lib/pq has not read yet.
func (s settings) checkNUL() error {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if hasNUL(s[name]) {
			return nulError(name)
		}
	}
	return nil
}

// checkStrings refuses a NUL in all that lib/pq sends as strings that end with a NUL:
// what followed it could be further parameters. The error names the parameter, and never
// shows its value. A setting without a name would end the list.
func checkStrings(config *pq.Config) error {
	fields := reflect.ValueOf(*config)
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Tag.Get("postgres")
		if name != "" && fields.Field(i).Kind() == reflect.String && hasNUL(fields.Field(i).String()) {
			return nulError(name)
		}
	}
	for _, more := range config.Multi {
		if hasNUL(more.Host) {
			return nulError("host")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(config.Runtime)) {
		if name == "" || hasNUL(name) {
			return fmt.Errorf("pgnotify: a setting has the invalid name %.80q", name)
		}
		if hasNUL(config.Runtime[name]) {
			return nulError(name)
		}
	}
	return nil
}

func hasNUL(text string) bool { return strings.IndexByte(text, 0) >= 0 }

func nulError(name string) error {
	return fmt.Errorf("pgnotify: the value of %.80q contains a NUL byte", name)
}
