module h3

go 1.24
