# Counts the tests in a JUnit report of cargo-nextest: prints `passed failed skipped`, then a line for each skipped test.
# A test is skipped when it passed and printed a line `SKIPPED: reason`.
/^ *<testcase / { name = $0; sub(/.* name="/, "", name); sub(/".*/, "", name); bad = 0; why = "" }
/^ *<(failure|error)/ { bad = 1 }
/^( *<system-(out|err)>)?SKIPPED: / && why == "" { why = $0; sub(/.*SKIPPED: /, "", why) }
/^ *<\/testcase>/ || /^ *<testcase .*\/>$/ {
    if (bad) failed++
    else if (why != "") { skipped++; lines = lines "\n" why " (" name ")" }
    else passed++
}
END { print passed + 0, failed + 0, skipped + 0 lines }
