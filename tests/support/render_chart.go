// Renders the templates of a Helm chart with Go's template engine, as Helm does, for the few functions that this chart uses.
//
// Usage: go run render_chart.go NAMESPACE VALUES.json TEMPLATE...
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"text/template"
)

func main() {
	var values map[string]interface{}
	text, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(text, &values)
	}
	functions := template.FuncMap{
		"quote": func(value interface{}) string { return strconv.Quote(fmt.Sprint(value)) },
		"toJson": func(value interface{}) (string, error) {
			text, err := json.Marshal(value)
			return string(text), err
		},
	}
	data := map[string]interface{}{"Values": values, "Release": map[string]string{"Namespace": os.Args[1], "Name": "pillion"}}
	for _, file := range os.Args[3:] {
		if err != nil {
			break
		}
		if text, err = os.ReadFile(file); err != nil {
			break
		}
		var parsed *template.Template
		if parsed, err = template.New(file).Option("missingkey=error").Funcs(functions).Parse(string(text)); err != nil {
			break
		}
		fmt.Println("---")
		err = parsed.Execute(os.Stdout, data)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
