# What makes an event and what does not, for triggers for statements and for rows alike, and that no write of the CRM
# fails or waits because of them (R75, N1, N5, N17): every way to write, partitions, foreign tables, whose rights, what
# goes wrong, and other sessions that change the triggers meanwhile.

use strict;
use warnings;
use McTest;
use Test::More;

my $node = McTest::Node->start('main');
$node->role('ann', level => 'admin');
$node->role($_) for qw(clerk other);
$node->query(<<'SQL');
CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SCHEMA crm AUTHORIZATION ann;
GRANT USAGE ON SCHEMA crm TO clerk, other;
CREATE SCHEMA looking;
-- the contacts that the events since the last look mean; * stands for all
CREATE FUNCTION looking.noted() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_watch	record;
	_keys	text[];
	_all	text[] := '{}';
BEGIN
	FOR _watch IN
		SELECT w.relation_id, s.owner,
			CASE WHEN w.keys_query IS NULL THEN mailchimp_sync.own_keys_query(w.source_id) ELSE mailchimp_sync.event_keys_query(w.relation_id) END AS query,
			(SELECT array_agg(r.r::text) FILTER (WHERE r.r IS NOT NULL) FROM mailchimp_sync.event e, unnest(ARRAY[e.old_row, e.new_row]) r(r)
				WHERE e.relation_id = w.relation_id) AS rows
		FROM mailchimp_sync.watch w JOIN mailchimp_sync.source s USING (source_id)
	LOOP
		EXECUTE format('SELECT array_agg(q.contact_key) FROM (%s) q', _watch.query) INTO _keys USING _watch.rows;
		_all := _all || _keys;
	END LOOP;
	IF EXISTS (SELECT FROM mailchimp_sync.event WHERE old_row IS NULL AND new_row IS NULL) THEN
		_all := _all || '*'::text;
	END IF;
	DELETE FROM mailchimp_sync.event;
	RETURN (SELECT coalesce(string_agg(DISTINCT k, ' ' ORDER BY k), '') FROM unnest(_all) k);
END
$$;
GRANT USAGE ON SCHEMA looking TO clerk;
GRANT EXECUTE ON FUNCTION looking.noted() TO clerk;
SQL

# Runs SQL as the clerk, who may do nothing in the extension, and says what was noted, or what went wrong.
my $clerk = $node->session(as => 'clerk');
sub noted
{
	my ($sql) = @_;
	# a psql that stays does not take data from its input
	if ($sql =~ /^COPY/) { $node->query($sql, as => 'clerk') }
	else { $clerk->query("$sql;") }
	my $error = $clerk->{stderr};
	$clerk->{stderr} = '';
	return $1 if $error =~ /ERROR:  (.*)/;
	my $noted = $clerk->query('SELECT looking.noted()');
	return (split /\n/, $noted)[-1] // '';
}

sub settings { $node->query("SELECT mc_alter_source('$_[0]', '$_[1]'); DELETE FROM mailchimp_sync.event", as => 'postgres') }

# -----------------------------------------------------------------------------------------------------------------
# Every way to write, either way
# -----------------------------------------------------------------------------------------------------------------

$node->query(<<'SQL', as => 'ann');
CREATE TABLE crm.owner (id integer PRIMARY KEY, name text);
CREATE TABLE crm.candidate (id integer PRIMARY KEY, first_name text, email text, note text, owner_id integer REFERENCES crm.owner ON DELETE SET NULL,
	shout text GENERATED ALWAYS AS (upper(first_name)) STORED, team text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE crm.log (id integer REFERENCES crm.candidate ON DELETE CASCADE, what text);
CREATE VIEW crm.editable AS SELECT id, first_name FROM crm.candidate;
GRANT ALL ON ALL TABLES IN SCHEMA crm TO clerk;
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{"SHOUT": "shout"}');
SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON o.id = c.owner_id');
-- before any row is written, as CRMs have it
CREATE FUNCTION crm.tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.first_name := btrim(NEW.first_name); RETURN NEW; END $$;
CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON crm.candidate FOR EACH ROW EXECUTE FUNCTION crm.tidy();
CREATE FUNCTION crm.hire(_id integer) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = crm, pg_temp AS
	$$ INSERT INTO candidate (id, email) VALUES (_id, 'hired') $$;
CREATE FUNCTION crm.try(_id integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE crm.candidate SET email = 'kept' WHERE id = _id;
	BEGIN
		UPDATE crm.candidate SET email = 'lost' WHERE id = _id + 1;
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		NULL;
	END;
END
$$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO clerk;
SQL

my @writes = (
	[ 'INSERT', "INSERT INTO crm.candidate (id, first_name) VALUES (1, 'Ann'), (2, 'Ben'), (3, 'Cas')", '1 2 3' ],
	[ 'INSERT of no row', 'INSERT INTO crm.candidate SELECT FROM crm.log', '' ],
	[ 'UPDATE', "UPDATE crm.candidate SET email = id WHERE id < 3", '1 2' ],
	[ 'UPDATE of some', "UPDATE crm.candidate SET email = CASE id WHEN 3 THEN 'new' ELSE email END", '3' ],
	[ 'UPDATE of nothing', "UPDATE crm.candidate SET email = email, note = 'x'", '' ],
	[ 'UPDATE that a BEFORE trigger undoes', "UPDATE crm.candidate SET first_name = first_name || ' '", '' ],
	[ 'a generated column', "UPDATE crm.candidate SET first_name = 'Anna' WHERE id = 1", '1' ],
	[ 'UPDATE of a key', 'UPDATE crm.candidate SET id = 4 WHERE id = 3', '3 4' ],
	[ 'an updatable view', "UPDATE crm.editable SET first_name = 'View' WHERE id = 2", '2' ],
	[ 'INSERT ON CONFLICT', "INSERT INTO crm.candidate (id, email) VALUES (1, 'up'), (5, 'ins') ON CONFLICT (id) DO UPDATE SET email = excluded.email", '1 5' ],
	[ 'ON CONFLICT DO UPDATE of nothing', "INSERT INTO crm.candidate (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET note = 'again'", '' ],
	[ 'ON CONFLICT DO NOTHING', 'INSERT INTO crm.candidate (id) VALUES (1), (6) ON CONFLICT (id) DO NOTHING', '6' ],
	[ 'MERGE', "MERGE INTO crm.candidate c USING (VALUES (5, NULL), (6, 'merged'), (7, 'new'), (1, 'same')) AS n(id, email) ON n.id = c.id
		WHEN MATCHED AND n.email IS NULL THEN DELETE
		WHEN MATCHED AND n.email = 'same' THEN UPDATE SET note = 'merged'
		WHEN MATCHED THEN UPDATE SET email = n.email
		WHEN NOT MATCHED THEN INSERT (id, email) VALUES (n.id, n.email)", '5 6 7' ],
	[ 'COPY', "COPY crm.candidate (id, email) FROM STDIN;\n8\tc\n9\tc\n\\.\n", '8 9' ],
	[ 'WITH', 'WITH gone AS (DELETE FROM crm.candidate WHERE id > 7 RETURNING id) INSERT INTO crm.candidate (id) SELECT id + 10 FROM gone', '18 19 8 9' ],
	[ 'a cursor', "BEGIN; DECLARE c CURSOR FOR SELECT * FROM crm.candidate WHERE id = 7 FOR UPDATE; FETCH c;
		UPDATE crm.candidate SET email = 'cursor' WHERE CURRENT OF c; COMMIT", '7' ],
	[ 'a watched table', "INSERT INTO crm.owner VALUES (1, 'Olga'); UPDATE crm.candidate SET owner_id = 1 WHERE id < 3; SELECT looking.noted();
		UPDATE crm.owner SET name = 'Otto'", '1 2' ],
	[ 'a watched table, nothing', 'UPDATE crm.owner SET name = name', '' ],
	[ 'a foreign key that acts', 'SELECT looking.noted(); DELETE FROM crm.owner', '' ],
	[ 'DELETE', 'DELETE FROM crm.candidate WHERE id IN (4, 18, 999)', '18 4' ],
	[ 'SECURITY DEFINER and a path of its own', 'SELECT crm.hire(30)', '30' ],
	[ 'what an exception takes back', 'SELECT crm.try(1)', '1' ],
	[ 'ROLLBACK', "BEGIN; UPDATE crm.candidate SET email = 'x'; TRUNCATE crm.owner CASCADE; ROLLBACK", '' ],
	[ 'ROLLBACK TO', "BEGIN; SAVEPOINT a; UPDATE crm.candidate SET email = 'x'; ROLLBACK TO a; UPDATE crm.candidate SET email = 'y' WHERE id = 30; COMMIT", '30' ],
	[ 'a deferred constraint that fails', "BEGIN; UPDATE crm.candidate SET team = 'one' WHERE id IN (1, 2); COMMIT", 'duplicate key value violates unique constraint "candidate_team_key"' ],
	[ 'a deferred constraint that holds', "BEGIN; UPDATE crm.candidate SET team = 'one', email = 'team' WHERE id IN (1, 2); UPDATE crm.candidate SET team = 'two' WHERE id = 2; COMMIT", '1 2' ],
	( map { [ $_, "BEGIN ISOLATION LEVEL $_; UPDATE crm.candidate SET email = email || 'i' WHERE id = 1; COMMIT", '1' ] } 'REPEATABLE READ', 'SERIALIZABLE' ),
	[ 'READ ONLY', 'BEGIN READ ONLY; SELECT count(*) FROM crm.candidate; COMMIT', '' ],
	[ 'PREPARE TRANSACTION', "BEGIN; UPDATE crm.candidate SET email = 'two-phase' WHERE id = 1; PREPARE TRANSACTION 'crm'", '' ],
	[ 'COMMIT PREPARED', "COMMIT PREPARED 'crm'", '1' ],
	[ 'ROLLBACK PREPARED', "BEGIN; UPDATE crm.candidate SET email = 'no' WHERE id = 1; PREPARE TRANSACTION 'crm'; ROLLBACK PREPARED 'crm'", '' ],
	[ 'TRUNCATE', 'TRUNCATE crm.candidate CASCADE', '*' ],
	[ 'TRUNCATE of a watched table', "INSERT INTO crm.candidate (id) VALUES (1); SELECT looking.noted(); TRUNCATE crm.owner CASCADE", '*' ]);

for my $level ('statement', 'row')
{
	$node->query('TRUNCATE crm.candidate, crm.owner CASCADE', as => 'ann');
	settings('candidate', qq({"triggers": "$level"}));
	is(noted($_->[1]), $_->[2], "$level: $_->[0]") for @writes;
}

# -----------------------------------------------------------------------------------------------------------------
# Nothing that is noted fails a write: columns that are gone, values that are too much, settings of sessions
# -----------------------------------------------------------------------------------------------------------------

$node->query(<<'SQL', as => 'ann');
CREATE TABLE crm.odd (id integer, word text, doc jsonb, bytes bytea, at timestamptz, part interval, amount float8, email text);
CREATE TABLE crm.pile (id integer PRIMARY KEY);
SELECT mc_add_source('odd', 'crm.odd', $$concat_ws('/', id, word, doc, octet_length(bytes), extract(epoch FROM at), part, amount)$$, 'email');
SQL
$node->query("DO \$\$ BEGIN FOR i IN 1 .. 20 LOOP EXECUTE format('ALTER TABLE crm.pile ADD c%s text', i); END LOOP; END \$\$;
	SELECT mc_watch('odd', 'crm.pile', 'SELECT concat(changed) FROM changed'); GRANT ALL ON crm.odd, crm.pile TO clerk", as => 'ann');
my $columns = join ', ', map { "c$_" } 1 .. 20;
for my $level ('statement', 'row')
{
	settings('odd', qq({"triggers": "$level"}));
	is(noted("INSERT INTO crm.odd (id, word) VALUES (1, 'a'), (2, repeat('long', 300000)), (3, 'b')"), $level eq 'row' ? '* 1/a 3/b' : '* 1/a',
		"$level: a value of a megabyte");
	is(noted("UPDATE crm.odd SET email = 'x' WHERE id = 2"), '*', "$level: when something else changes");
	is(noted("DELETE FROM crm.odd WHERE id = 2"), '*', "$level: and when it goes");
	is(noted("INSERT INTO crm.odd (id, doc) VALUES (5, (repeat('[', 2000) || repeat(']', 2000))::jsonb), (6, (repeat('[', 90) || repeat(']', 90))::jsonb)"),
		$level eq 'row' ? '* 6/' . '[' x 90 . ']' x 90 : '*', "$level: JSON that is nested deep");
	is(noted(q(INSERT INTO crm.odd (id, doc, word) VALUES (7, '{"a\"[[": ["\\\\\\\\", "}"]}', E'tab\t"quote" back\\\\slash \x01 €'))),
		qq(7/tab\t"quote" back\\slash \x01 \xe2\x82\xac/{"a\\"[[": ["\\\\\\\\", "}"]}), "$level: what has to be quoted");
	is(noted("INSERT INTO crm.pile (id, $columns) SELECT 1, " . join(', ', map { 'w' } 1 .. 20) . " FROM repeat('wide', 200000) w"), '*', "$level: a row of 16 megabytes");
	is(noted("SET datestyle = 'German'; SET timezone = 'Asia/Kolkata'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -15; SET bytea_output = escape;
		INSERT INTO crm.odd VALUES (8, 'w', '{}', '\\x00ff', '2020-12-31 23:00+00', '1 day 02:03', 0.1::float8 + 0.2); RESET ALL"),
		'8/w/{}/2/1609455600.000000/1 day 02:03:00/0.30000000000000004', "$level: the session's settings do not matter");
	is(noted("SET search_path = crm; SET row_security = off; UPDATE odd SET word = 'path' WHERE id = 8 RETURNING 1; RESET ALL") =~ m{8/path/}, 1, "$level: nor its path");
	$node->query('TRUNCATE crm.odd, crm.pile');
}
$node->query("SELECT mc_drop_source('odd')");

$node->query("CREATE TABLE crm.moving (nr integer PRIMARY KEY, a text, b text); GRANT ALL ON crm.moving TO clerk;
	SELECT mc_add_source('moving', 'crm.moving', 'nr', 'a', '{\"B\": \"b\"}')", as => 'ann');
for my $level ('statement', 'row')
{
	settings('moving', qq({"triggers": "$level"}));
	noted("INSERT INTO crm.moving VALUES (1, 'a', 'b'), (2, 'a', 'b')");
	$node->query('ALTER TABLE crm.moving RENAME a TO c', as => 'ann');
	is(noted('UPDATE crm.moving SET b = b'), '1 2', "$level: a mapped column that is gone: every row");
	is(noted('DELETE FROM crm.moving WHERE nr = 2'), '2', "$level: its key is known");
	$node->query('ALTER TABLE crm.moving RENAME c TO a; ALTER TABLE crm.moving RENAME nr TO id', as => 'ann');
	# noted() cannot read keys any more, so it looks at the events
	for my $write ("INSERT INTO crm.moving VALUES (3, 'a', 'b'), (4, 'a', 'b')", "UPDATE crm.moving SET b = 'c'", 'DELETE FROM crm.moving')
	{
		$clerk->query("$write;");
		is($node->query('WITH gone AS (DELETE FROM mailchimp_sync.event RETURNING *) SELECT count(*), count(old_row), count(new_row) FROM gone'), '1|0|0',
			"$level: a key that is gone: one event for all, " . substr($write, 0, 6));
	}
	$node->query('ALTER TABLE crm.moving RENAME id TO nr', as => 'ann');
}
$node->query("SELECT mc_drop_source('moving')");

# -----------------------------------------------------------------------------------------------------------------
# Row security, triggers that are switched off, replication's role
# -----------------------------------------------------------------------------------------------------------------

$node->query("TRUNCATE crm.candidate CASCADE; INSERT INTO crm.candidate (id, note) VALUES (1, 'clerk'), (2, 'secret'); ALTER TABLE crm.candidate ENABLE ROW LEVEL SECURITY;
	CREATE POLICY mine ON crm.candidate TO clerk USING (note = 'clerk')", as => 'ann');
for my $level ('statement', 'row')
{
	settings('candidate', qq({"triggers": "$level"}));
	is(noted("UPDATE crm.candidate SET email = '$level'"), '1', "$level: row security of the CRM's table: what was written, no more");
	$node->query('ALTER TABLE crm.candidate DISABLE TRIGGER USER', as => 'ann');
	is(noted("UPDATE crm.candidate SET email = 'off $level'"), '', "$level: triggers that are switched off");
	like($node->query("SELECT detail FROM mc_source", as => 'ann'), qr/^a trigger on crm.candidate is missing, disabled /, 'and mc_source says so');
	$node->query('ALTER TABLE crm.candidate ENABLE TRIGGER USER', as => 'ann');
	is($node->query("SELECT detail FROM mc_source", as => 'ann'), '', 'on again');
	$node->query("SET session_replication_role = replica; UPDATE crm.candidate SET email = 'replica $level'");
	is(noted(''), '', "$level: session_replication_role = replica");
}
settings('candidate', '{"triggers": null, "replica": true}');
$node->query("SET session_replication_role = replica; UPDATE crm.candidate SET email = 'replica'");
is(noted(''), '1 2', 'replica: fired all the same');
is(noted("UPDATE crm.candidate SET email = 'ordinary'"), '1', 'replica: and otherwise');
$node->query('SET session_replication_role = replica; TRUNCATE crm.candidate CASCADE');
is(noted(''), '*', 'replica: TRUNCATE too');
$node->query('ALTER TABLE crm.candidate DISABLE ROW LEVEL SECURITY');

# -----------------------------------------------------------------------------------------------------------------
# Partitions, inheritance, foreign tables
# -----------------------------------------------------------------------------------------------------------------

$node->query(<<'SQL', as => 'ann');
SELECT mc_drop_source('candidate');
CREATE TABLE crm.person (id integer, region text, born integer, email text, PRIMARY KEY (id, region, born)) PARTITION BY LIST (region);
CREATE TABLE crm.person_nl PARTITION OF crm.person FOR VALUES IN ('nl');
CREATE TABLE crm.person_be PARTITION OF crm.person FOR VALUES IN ('be') PARTITION BY RANGE (born);
CREATE TABLE crm.person_be_old PARTITION OF crm.person_be FOR VALUES FROM (MINVALUE) TO (1970);
CREATE TABLE crm.person_be_new (junk text, email text, born integer NOT NULL, region text NOT NULL, id integer NOT NULL);
ALTER TABLE crm.person_be_new DROP junk;
ALTER TABLE crm.person_be ATTACH PARTITION crm.person_be_new FOR VALUES FROM (1970) TO (MAXVALUE);
CREATE TABLE crm.animal (id integer PRIMARY KEY, email text, note text);
CREATE TABLE crm.dog (breed text, PRIMARY KEY (id)) INHERITS (crm.animal);
SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"REGION": "region"}'), mc_add_source('animal', 'crm.animal', 'id', 'email');
GRANT ALL ON ALL TABLES IN SCHEMA crm TO clerk;
SQL
my @tree = (
	[ 'INSERT through the parent', "INSERT INTO crm.person VALUES (1, 'nl', 1960, 'a'), (2, 'be', 1960, 'a'), (3, 'be', 1980, 'a')", '1 2 3' ],
	[ 'INSERT into a partition', "INSERT INTO crm.person_be_new (id, region, born, email) VALUES (4, 'be', 1990, 'a'); INSERT INTO crm.person_be VALUES (5, 'be', 1950, 'a')", '4 5' ],
	[ 'COPY', "COPY crm.person FROM STDIN;\n6\tnl\t1960\ta\n7\tbe\t1980\ta\n\\.\n", '6 7' ],
	[ 'UPDATE through the parent', "UPDATE crm.person SET email = 'b' WHERE id < 4", '1 2 3' ],
	[ 'UPDATE of a partition', "UPDATE crm.person_be_new SET email = 'c' WHERE id = 3", '3' ],
	[ 'UPDATE of nothing mapped', 'UPDATE crm.person SET born = born + 1 WHERE id = 1', '' ],
	[ 'a row that moves', "UPDATE crm.person SET region = 'be' WHERE id = 1", '1' ],
	[ 'one that moves between columns in another order', "UPDATE crm.person SET born = 1999, email = 'moved' WHERE id = 2", '2' ],
	[ 'one that moves, with another key', "UPDATE crm.person SET born = 1930, id = 12 WHERE id = 2", '12 2' ],
	[ 'ON CONFLICT', "INSERT INTO crm.person VALUES (6, 'nl', 1960, 'd'), (8, 'nl', 1960, 'd') ON CONFLICT (id, region, born) DO UPDATE SET email = excluded.email", '6 8' ],
	[ 'MERGE', "MERGE INTO crm.person p USING (VALUES (6, 'e'), (7, NULL)) n(id, email) ON n.id = p.id WHEN MATCHED AND n.email IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET email = n.email", '6 7' ],
	[ 'DELETE', 'DELETE FROM crm.person WHERE id IN (5, 6)', '5 6' ],
	[ 'DELETE from a partition', 'DELETE FROM crm.person_nl', '8' ],
	[ 'TRUNCATE of a partition', 'TRUNCATE crm.person_be_old', '*' ],
	[ 'TRUNCATE', 'TRUNCATE crm.person', '*' ],
	[ 'a child', "INSERT INTO crm.dog VALUES (1, 'a', 'n', 'poodle'); INSERT INTO crm.animal VALUES (2, 'a', 'n')", '1 2' ],
	[ 'UPDATE through the parent table', "UPDATE crm.animal SET email = 'b'", '1 2' ],
	[ 'UPDATE of nothing mapped there', "UPDATE crm.animal SET note = 'b'; UPDATE crm.dog SET breed = 'pug'", '' ],
	[ 'UPDATE ONLY', "UPDATE ONLY crm.animal SET email = 'c'", '2' ],
	[ 'UPDATE of the child', "UPDATE crm.dog SET email = 'd'", '1' ],
	[ 'DELETE through the parent table', 'DELETE FROM crm.animal', '1 2' ]);
for my $level ('statement', 'row')
{
	settings($_, qq({"triggers": "$level"})) for qw(person animal);
	is(noted($_->[1]), $_->[2], "$level: $_->[0]") for @tree;
}

# A foreign partition has no transition tables: with triggers for statements the write itself would fail.
SKIP:
{
	skip 'postgres_fdw is not installed', 5 unless $node->query("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'");
	my ($host, $port) = ($node->host, $node->port);
	$node->query("CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres', password_required 'false');
		CREATE TABLE looking.far (id integer, region text, email text);
		CREATE TABLE looking.whale (id integer, email text, note text);
		CREATE TABLE crm.world (id integer, region text, email text) PARTITION BY LIST (region);
		CREATE TABLE crm.world_nl PARTITION OF crm.world FOR VALUES IN ('nl');
		SELECT mc_add_source('world', 'crm.world', 'id', 'email');
		CREATE FOREIGN TABLE crm.world_far PARTITION OF crm.world FOR VALUES IN ('far') SERVER far OPTIONS (schema_name 'looking', table_name 'far');
		CREATE FOREIGN TABLE crm.whale () INHERITS (crm.animal) SERVER far OPTIONS (schema_name 'looking', table_name 'whale');
		GRANT ALL ON crm.world, crm.world_far, crm.whale TO clerk");
	settings($_, '{"triggers": null}') for qw(world animal);
	is(noted("INSERT INTO crm.world VALUES (1, 'far', 'a'), (2, 'nl', 'a')"), '1 2', 'a foreign partition: INSERT');
	is(noted("UPDATE crm.world SET email = 'b'"), '1 2', 'a foreign partition: UPDATE');
	is(noted("UPDATE crm.world_far SET email = 'c'"), '1', 'a foreign partition: UPDATE of it alone');
	is(noted("INSERT INTO crm.whale VALUES (1, 'a'); INSERT INTO crm.animal VALUES (2, 'a'); UPDATE crm.animal SET email = 'c'"), '2',
		'a foreign child: the write works, its rows are not noted');
	is(noted('DELETE FROM crm.world'), '1 2', 'a foreign partition: DELETE');
}

# -----------------------------------------------------------------------------------------------------------------
# A definition that changes triggers waits for writers, but not for long, since others wait with it
# -----------------------------------------------------------------------------------------------------------------

$node->query('SELECT mc_drop_source(source) FROM mc_source', as => 'postgres');
$node->query("SELECT mc_add_source('owner', 'crm.owner', 'id', 'name')", as => 'ann');
my $writer = $node->session(as => 'clerk');
$writer->query("BEGIN; INSERT INTO crm.owner VALUES (1, 'open')");
my ($admin, $patient) = map { $node->session(as => 'ann') } 1, 2;
McTest::begin($admin, "SELECT mc_alter_source('owner', '{\"triggers\": \"row\"}'); SHOW lock_timeout;");
$node->wait_until("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'");
is($clerk->query("INSERT INTO crm.owner VALUES (2, 'later'); SELECT 'written'"), 'written', 'N17: who writes while a definition waits is let go by its time-out');
is($admin->query(''), '0', 'the time-out is its own');
like($admin->{stderr}, qr/ERROR:  crm.owner is in use by other transactions, so its triggers cannot be changed now\n.*HINT:  Try again, or SET lock_timeout/s, 'and it says so');
is($node->query("SELECT triggers FROM mc_source", as => 'ann'), 'auto', 'it has changed nothing');
McTest::begin($patient, "SET lock_timeout = '1 h'; SELECT mc_alter_source('owner', '{\"triggers\": \"row\"}'); SHOW lock_timeout;");
$node->wait_until("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'");
$writer->query('COMMIT');
is($patient->query(''), "\n1h", 'who says how long waits as long');
is($node->query("SELECT triggers FROM mc_source", as => 'ann'), 'row', 'and has it');
is(noted("UPDATE crm.owner SET name = 'x'"), '* 1 2', 'nothing was lost');

# Writers under way do not mind: each statement has the triggers that there were when it began.
McTest::begin($clerk, "DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP UPDATE crm.owner SET name = i WHERE id = 1; COMMIT; END LOOP; END \$\$; SELECT 'done';");
$patient->query("SELECT mc_alter_source('owner', '{\"triggers\": \"$_\"}');") for ('statement', 'row') x 5;
like($clerk->query(''), qr/^done$/m, 'N17: triggers that change under a writer');
is($clerk->{stderr}, '', 'without an error');
is($patient->{stderr}, '', 'nor for who changes them');
is(noted("UPDATE crm.owner SET name = 'last' WHERE id = 1"), '* 1', 'and its changes are noted');

$_->quit for $clerk, $writer, $admin, $patient;
done_testing();
