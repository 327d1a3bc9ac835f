// Package fdwatch looks at the descriptors of sockets without reading them.
package fdwatch
