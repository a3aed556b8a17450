# docs/reference.md says exactly what there is: names, arguments, defaults, results, columns, levels, settings and states are
# read from it and compared with the catalog, in both directions. Who may reach what is tried out with a role of each level
# (D19, R14, R16). What is not built yet is in neither.

use strict;
use warnings;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = McTest::Node->start('main');
my $text = slurp_file("$McTest::root/docs/reference.md");

# Rows of a query as text; the test is that there is none of them.
sub none
{
	my ($sql, $name) = @_;
	is($node->query($sql), '', $name);
}

# -----------------------------------------------------------------------------------------------------------------
# Reading the reference: a section for each function (with its overloads) or view
# -----------------------------------------------------------------------------------------------------------------

my (@functions, @views, %level, %change_level);
for my $section (split /^(?=##)/m, $text)
{
	my ($kind, $name) = $section =~ /^### (View )?(mc_\w+)\n/ or next;
	my ($block) = $section =~ /^```sql\n(.*?)^```/ms or BAIL_OUT("$name: no sql block");

	if ($kind)
	{
		my @columns = split /[\s,]+/, $block;
		push @views, [ $name, "@columns" ];
		($change_level{$name}) = $section =~ /^INSERT and DELETE: level (\w+)/m;
		next;
	}
	($level{$name}) = $section =~ /^Level: (\w+)\b.* Network: (?:none|reads|writes)\./m;
	ok($level{$name}, "$name: level and network are stated");
	push @functions, map { [ $name, $_ ] } split /\n/, $block;
}
cmp_ok(scalar @functions, '>', 30, 'functions were read');
cmp_ok(scalar @views, '>', 15, 'views were read');

# -----------------------------------------------------------------------------------------------------------------
# The catalog: members of the extension in the schema that was given for them
# -----------------------------------------------------------------------------------------------------------------

$node->query(<<~'SQL');
	CREATE SCHEMA reference;
	CREATE VIEW member AS
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'mailchimp_sync';
	CREATE VIEW public_function AS
	SELECT p.oid, p.proname AS name, format('%s(%s)%s', p.proname, pg_get_function_arguments(p.oid),
		' returns ' || pg_get_function_result(p.oid)) AS signature
	FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f';
	CREATE VIEW public_view AS
	SELECT c.oid, c.relname AS name,
		(SELECT string_agg(a.attname, ' ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) AS columns
	FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
	WHERE c.relnamespace = 'public'::regnamespace;
	CREATE TABLE documented_view (name text, columns text);
	CREATE TABLE documented_level (name text, level text);
	CREATE TABLE documented_setting (name text, value text, lowest text, highest text, context text);
	SQL

# PostgreSQL itself reads the signatures, so a default may be written in any way that means the same. A body is not looked at.
my @procedures;
my $declarations = "SET check_function_bodies = off;\n";
for (@functions)
{
	my ($name, $signature) = @$_;
	if ($signature =~ /^CALL (\w+\(.*\))$/)
	{
		push @procedures, $1;
		next;
	}
	my ($head, $result) = $signature =~ /^(\Q$name\E\(.*\)) → (.+)$/ or BAIL_OUT("cannot read $signature");
	$declarations .= "CREATE FUNCTION reference.$head RETURNS $result LANGUAGE plpgsql AS '';\n";
}
$node->query($declarations);
$node->query('INSERT INTO documented_view VALUES ' . join ', ', map { "('$_->[0]', '$_->[1]')" } @views);
$node->query('INSERT INTO documented_level VALUES ' . join ', ', map { "('$_', '$level{$_}')" } sort keys %level);

my $documented = <<~'SQL';
	SELECT format('%s(%s)%s', p.proname, pg_get_function_arguments(p.oid), ' returns ' || pg_get_function_result(p.oid))
	FROM pg_proc p WHERE p.pronamespace = 'reference'::regnamespace
	SQL
none("SELECT signature FROM public_function EXCEPT ($documented)", 'every function is in the reference as it is');
none("($documented) EXCEPT SELECT signature FROM public_function", 'the reference has no other function');
is($node->query(<<~'SQL'), join("\n", @procedures), 'procedures');
	SELECT format('%s(%s)', p.proname, pg_get_function_arguments(p.oid))
	FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'p'
	SQL
none('SELECT name, columns FROM public_view EXCEPT SELECT name, columns FROM documented_view', 'every view is in the reference, with its columns in order');
none('SELECT name, columns FROM documented_view EXCEPT SELECT name, columns FROM public_view', 'the reference has no other view');

none(<<~'SQL', 'everything has a comment');
	SELECT signature FROM public_function WHERE obj_description(oid, 'pg_proc') IS NULL
	UNION ALL SELECT name FROM public_view WHERE obj_description(oid, 'pg_class') IS NULL
	UNION ALL SELECT 'mc_run' WHERE obj_description('mc_run()'::regprocedure, 'pg_proc') IS NULL
	SQL

# -----------------------------------------------------------------------------------------------------------------
# Levels: as documented, as in the gate's table, and as carried out
# -----------------------------------------------------------------------------------------------------------------

none('SELECT name, level FROM documented_level EXCEPT SELECT name, level FROM mailchimp_sync.gate_function()', 'the gate has every documented level');
none('SELECT name, level FROM mailchimp_sync.gate_function() EXCEPT SELECT name, level FROM documented_level', 'the gate has no other line');

my @levels = qw(reader marketer admin);
for my $i (0 .. $#levels)
{
	my $role = $node->role("a_$levels[$i]", level => $levels[$i]);
	my $within = join ', ', map { "'$_'" } @levels[ 0 .. $i ], $levels[$i] eq 'admin' ? 'webhook' : ();
	none(<<~"SQL", "$levels[$i]: may execute exactly what the reference says");
		SELECT p.oid::regprocedure FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
		LEFT JOIN documented_level l ON l.name = p.proname
		WHERE p.pronamespace = 'public'::regnamespace
			AND has_function_privilege('$role', p.oid, 'EXECUTE') <> coalesce(l.level IN ($within), false)
		SQL
	none("SELECT name FROM public_view WHERE NOT has_table_privilege('$role', oid, 'SELECT')", "$levels[$i]: may read every view");
	my %may = map { $_ => 1 } @levels[ 0 .. $i ];
	my @changed = sort grep { $change_level{$_} && $may{ $change_level{$_} } } keys %change_level;
	for my $privilege ('INSERT', 'DELETE')
	{
		is($node->query("SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM public_view WHERE has_table_privilege('$role', oid, '$privilege')"),
			"@changed", "$levels[$i]: $privilege on views as the reference says");
	}
	none("SELECT name FROM public_view WHERE has_table_privilege('$role', oid, 'UPDATE, TRUNCATE, REFERENCES, TRIGGER')", "$levels[$i]: nothing else on views");
}

$node->role('a_webhook', level => 'webhook');
none(<<~'SQL', 'webhook: may execute exactly what the reference says, and sees nothing');
	SELECT p.oid::regprocedure::text FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	LEFT JOIN documented_level l ON l.name = p.proname
	WHERE p.pronamespace = 'public'::regnamespace AND has_function_privilege('a_webhook', p.oid, 'EXECUTE') <> coalesce(l.level = 'webhook', false)
	UNION ALL SELECT name FROM public_view WHERE has_table_privilege('a_webhook', oid, 'SELECT, INSERT, UPDATE, DELETE')
	SQL

# The table in docs/security.md is what the script prints of the catalog.
my ($written) = slurp_file("$McTest::root/docs/security.md") =~ /^<!-- levels -->\n(.*?)^<!-- end of levels -->$/ms;
my $printed = do
{
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($node->host, $node->port, 'postgres');
	`$McTest::root/scripts/levels`;
};
is($written, $printed, 'D19: docs/security.md has the levels as scripts/levels prints them');

# -----------------------------------------------------------------------------------------------------------------
# What nobody was given
# -----------------------------------------------------------------------------------------------------------------

$node->role('a_nobody');
for my $role ('a_nobody', map { "a_$_" } @levels)
{
	none("SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'mailchimp_sync'::regnamespace"
		. " AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege('$role', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
		"$role: no table of ours");
	none("SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'mailchimp_sync'::regnamespace"
		. " AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('$role', c.oid, 'USAGE, SELECT, UPDATE') END", "$role: no sequence of ours");
	is($node->query("SELECT has_schema_privilege('$role', 'mailchimp_sync', 'USAGE, CREATE')"), 'f', "$role: not into our schema");
}
none(<<~'SQL', 'nobody: no public function and no view');
	SELECT p.oid::regprocedure::text FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	WHERE p.pronamespace = 'public'::regnamespace AND has_function_privilege('a_nobody', p.oid, 'EXECUTE')
	UNION ALL SELECT name FROM public_view WHERE has_table_privilege('a_nobody', oid, 'SELECT, INSERT, UPDATE, DELETE')
	SQL

# Functions that a view calls run as who reads it; these read no table. Whoever adds one looks whether that holds.
is($node->query(<<~'SQL'), join(' ', sort @{ helpers() }), 'what PUBLIC may execute are the helpers of views and what triggers call, which the reference lists');
	SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM member m
	JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	WHERE has_function_privilege('a_nobody', p.oid, 'EXECUTE')
	SQL

sub helpers
{
	my ($list) = $text =~ /^Helpers of views: (.*?)\.$/ms or BAIL_OUT('no list of helpers');
	my ($triggers) = $text =~ /^Called by triggers, .*?: (.*?)\./ms or BAIL_OUT('no function of triggers');
	return [ "$list $triggers" =~ /`(\w+)`/g ];
}

# -----------------------------------------------------------------------------------------------------------------
# Settings: | `mailchimp_sync.x` | default | range | who | meaning |
# -----------------------------------------------------------------------------------------------------------------

my @settings;
my $unquote = sub { my ($value) = @_; return $value eq 'empty' ? '' : $value =~ s/`//gr };
while ($text =~ /^\| `(mailchimp_sync\.\w+)` \| ([^|]+) \| ([^|]*) \| ([^|]+) \|/mg)
{
	my ($name, $value, $range, $context) = ($1, $unquote->($2), $3, $4);
	my ($lowest, $highest) = $range =~ /^(\S+) … (\S+)$/ ? ($1, $2) : ('', '');
	push @settings, "('$name', '$value', '$lowest', '$highest', '$context')";
}
$node->query('INSERT INTO documented_setting VALUES ' . join ', ', @settings);
none(<<~'SQL', 'every setting is in the reference');
	SELECT name FROM pg_settings WHERE name LIKE 'mailchimp\_sync.%' EXCEPT SELECT name FROM documented_setting
	SQL
none(<<~'SQL', 'the reference has no other setting; who may set it');
	SELECT name, context FROM documented_setting
	EXCEPT SELECT name, CASE context WHEN 'sighup' THEN 'configuration' ELSE context END FROM pg_settings
	SQL
# a value with its unit and the number in pg_settings are the same if setting both gives the same
none(<<~'SQL', 'defaults and ranges');
	SELECT d.name, d.value, d.lowest, d.highest FROM documented_setting d JOIN pg_settings s USING (name)
	WHERE CASE WHEN s.context = 'sighup' THEN d.value <> s.boot_val
		ELSE set_config(d.name, d.value, false) <> set_config(d.name, s.boot_val, false) END
		OR (d.lowest <> '' AND set_config(d.name, d.lowest, false) <> set_config(d.name, s.min_val, false))
		OR (d.highest <> '' AND set_config(d.name, d.highest, false) <> set_config(d.name, s.max_val, false))
		OR (d.lowest = '') <> (s.min_val IS NULL)
	SQL

# -----------------------------------------------------------------------------------------------------------------
# States: the rows of a table, | `word` | …, after the section's heading, are those that the column may have
# -----------------------------------------------------------------------------------------------------------------

my %states = (
	'View mc_contact_state' => [ 'contact', 'state' ],
	'View mc_campaign' => [ 'campaign', 'status' ],
	'View mc_campaign_recipient' => [ 'recipient', 'skip_reason' ],
);
for my $heading (sort keys %states)
{
	my ($table, $column) = @{ $states{$heading} };
	my ($section) = $text =~ /^### \Q$heading\E\n(.*?)(?=^##)/ms;
	my @words = $section =~ /^\| `(\w+)` \|/mg;
	my $allowed = $node->query("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'mailchimp_sync.$table'::regclass"
		. " AND contype = 'c' AND cardinality(conkey) = 1 AND conkey[1] = (SELECT attnum FROM pg_attribute"
		. " WHERE attrelid = conrelid AND attname = '$column')");
	is("@{[ sort grep { $_ ne $column } @words ]}", "@{[ sort $allowed =~ /'(\w+)'/g ]}", "$heading: the values of $column");
}

# -----------------------------------------------------------------------------------------------------------------
# The guide's diagram has the arrows of the table of transitions, no more and no fewer
# -----------------------------------------------------------------------------------------------------------------

my ($drawn) = slurp_file("$McTest::root/docs/guide.md") =~ /^stateDiagram-v2\n(.*?)^```/ms;
my ($group, $within) = $drawn =~ /^ +state ".*" as (\w+) \{\n(.*?)^ +\}/ms;
my @members = $within =~ /^ +(\w+)$/mg;
my %arrows;
for my $line (split /\n/, $drawn)
{
	my ($from, $to, $verbs) = $line =~ /^ +(\w+) --> (\w+) : (.*)$/ or next;
	for my $state ($from eq $group ? @members : $from)
	{
		ok(!$arrows{"$state $_ $to"}++, "$state $_ $to is drawn once") for split /, /, $verbs;
	}
}
is(join("\n", sort keys %arrows), $node->query(<<~'SQL'), 'the states of a campaign are drawn as they are');
	SELECT concat_ws(' ', from_status, verb, to_status) FROM mailchimp_sync.campaign_transitions()
	WHERE from_status <> to_status ORDER BY concat_ws(' ', from_status, verb, to_status) COLLATE "C"
	SQL

done_testing();
