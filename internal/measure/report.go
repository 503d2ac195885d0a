package measure

import (
	"errors"
	"io"
)

// WriteHTML is being written.
func (r *Report) WriteHTML(io.Writer) error { return errors.New("no HTML report yet") }
