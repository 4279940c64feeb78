# Counts the tests in what `cargo test -- --show-output` prints: prints `passed failed skipped`, then a line for each
# skipped test. A test is skipped when it passed and printed a line `SKIPPED: reason`; an ignored one is skipped, too.
/^running [0-9]+ tests?$/ { binary++; good = 0 }
/^successes:$/ { good = 1 }
/^failures:$/ { good = 0 }
/^---- .* stdout ----$/ { name = $0; gsub(/^---- | stdout ----$/, "", name) }
/^SKIPPED: / && good && !seen[binary, name]++ { skipped++; sub(/^SKIPPED: /, ""); lines = lines "\n" $0 " (" name ")" }
/^test result: / { passed += $4; failed += $6; ignored += $8 }
END { print passed - skipped, failed + 0, skipped + ignored lines }
