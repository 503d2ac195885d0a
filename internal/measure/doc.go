// Package measure tells how fast a link is, over each of its paths.
package measure
