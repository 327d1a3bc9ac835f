// Package rig is what the tests of several packages share. The driver never imports it.
package rig
