package main

import (
	"bytes"
	"image/color"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A drawing is a figure that was drawn.
type drawing struct{ title, file string }

// drawFigures draws the figures that the report has something for. It does nothing
// without a folder.
func drawFigures(folder string, r *report) (drawn []drawing, err error) {
	if folder == "" {
		return nil, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	for _, f := range figures {
		groups := f.of(r)
		if len(groups) == 0 {
			continue
		}
		svg, err := f.svg(groups)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(folder, f.file+".svg")
		if err := os.WriteFile(file, svg, 0o644); err != nil {
			return nil, err
		}
		drawn = append(drawn, drawing{f.title, file})
	}
	return drawn, nil
}

// Sizes of a figure.
const (
	figureWidth  = 640 * vg.Inch / 72
	rowHeight    = 15 * vg.Inch / 72
	otherHeight  = 95 * vg.Inch / 72 // title and axis
	barThickness = 10 * vg.Inch / 72
)

var (
	oursColor   = color.RGBA{0x1f, 0x6f, 0xb5, 0xff}
	theirsColor = color.RGBA{0xc8, 0xc8, 0xc8, 0xff}
	markColor   = color.RGBA{0xa0, 0xa0, 0xa0, 0xff}
	textFont    = font.Font{Typeface: "Liberation", Variant: "Sans"}
)

// peerNames are those whose bars are grey: pgnotify's are blue.
var peerNames = map[string]bool{
	libpqName: true, pgxName: true,
	libpqListenerName: true, pgxConnName: true, pgxBareName: true, pgxlistenName: true, bunName: true,
	bareChannelsName: true, pgxCopyName: true, bareReaderName: true,
}

// svg draws the figure: from top to bottom a row for each group's name, and for
// each of its bars.
func (f figure) svg(groups []group) ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = f.title, f.axis
	p.Title.Padding = vg.Points(8)
	p.Title.TextStyle.Font = font.From(textFont, 13)
	p.X.Label.TextStyle.Font = font.From(textFont, 10)
	p.X.Tick.Label.Font = font.From(textFont, 9)
	p.Y.Tick.Label.Font = font.From(textFont, 9)
	p.Y.Tick.Length, p.Y.Width = 0, 0
	p.Y.Padding = vg.Points(16) // a font that is wider than the measured one fits, too
	p.X.Tick.Marker = plot.TickerFunc(shortTicks)

	rows := 0
	for _, g := range groups {
		rows += 1 + len(g.bars)
	}
	var (
		row    = float64(rows)
		names  plot.ConstantTicks
		values labels
		titles labels
		most   = f.mark
	)
	if f.mark > 0 {
		if err := addMark(p, f.mark, float64(rows)); err != nil {
			return nil, err
		}
	}
	for _, g := range groups {
		titles.add(0, row, g.name)
		for _, b := range g.bars {
			row--
			if err := addBar(p, row, b); err != nil {
				return nil, err
			}
			names = append(names, plot.Tick{Value: row, Label: b.contender})
			values.add(b.value, row, number(b.value))
			most = max(most, b.value)
		}
		row--
	}
	if err := values.addTo(p, font.From(textFont, 9)); err != nil {
		return nil, err
	}
	bold := font.From(textFont, 10)
	bold.Weight = 2 // bold, as in golang.org/x/image/font
	if err := titles.addTo(p, bold); err != nil {
		return nil, err
	}
	p.Y.Tick.Marker = names
	p.X.Min, p.X.Max = 0, 1.12*most
	p.Y.Min, p.Y.Max = 0.2, float64(rows)+0.6
	return render(p, otherHeight+vg.Length(rows)*rowHeight)
}

// shortTicks are the default ones, without zeros at the end.
func shortTicks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = strconv.FormatFloat(t.Value, 'g', 4, 64)
		}
	}
	return ticks
}

func addBar(p *plot.Plot, row float64, b bar) error {
	chart, err := plotter.NewBarChart(plotter.Values{b.value}, barThickness)
	if err != nil {
		return err
	}
	chart.Horizontal, chart.XMin, chart.LineStyle.Width = true, row, 0
	if chart.Color = oursColor; peerNames[b.contender] {
		chart.Color = theirsColor
	}
	p.Add(chart)
	return nil
}

// addMark draws a line across all rows. Bars and numbers come over it.
func addMark(p *plot.Plot, x, rows float64) error {
	line, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0.2}, {X: x, Y: rows + 0.6}})
	if err != nil {
		return err
	}
	line.Color, line.Dashes = markColor, []vg.Length{vg.Points(3), vg.Points(3)}
	line.Width = vg.Points(0.7)
	p.Add(line)
	return nil
}

// labels are texts beside points.
type labels struct {
	at    plotter.XYs
	texts []string
}

func (l *labels) add(x, y float64, text string) {
	l.at, l.texts = append(l.at, plotter.XY{X: x, Y: y}), append(l.texts, text)
}

func (l *labels) addTo(p *plot.Plot, f font.Font) error {
	all, err := plotter.NewLabels(plotter.XYLabels{XYs: l.at, Labels: l.texts})
	if err != nil {
		return err
	}
	all.Offset.X = vg.Points(3)
	for i := range all.TextStyle {
		all.TextStyle[i] = text.Style{Color: color.Black, Font: f, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
	}
	p.Add(all)
	return nil
}

// render returns the plot as SVG, with other fonts where the reader does not have
// the one it was measured with.
func render(p *plot.Plot, height vg.Length) ([]byte, error) {
	c := vgsvg.New(figureWidth, height)
	p.Draw(draw.Crop(draw.New(c), vg.Points(4), -vg.Points(12), vg.Points(4), -vg.Points(8)))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), nil
}
