//! Tests of the file driver that need its inside.
