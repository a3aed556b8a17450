# What ALTER TABLE and its like do under a source: the CRM goes on writing, the source says what is wrong (or follows by
# itself), the worker lives and serves the other sources, and nothing is lost once it is defined anew (N5, N8, N9, N17).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 3, demo => { lists => [ { name => 'Customers' }, { name => 'Steady' } ] });
my ($node, $sim) = @$crm{qw(node sim)};
my $steady = $crm->{demo}{lists}[1]{id};

$node->query("CREATE SCHEMA calm AUTHORIZATION ann");
$crm->ann("CREATE TABLE calm.steady (id integer PRIMARY KEY, name text, email text);
	INSERT INTO calm.steady VALUES (1, '0', 'steady\@crm.test');
	SELECT mc_add_source('steady', 'calm.steady', 'id', 'email', '{\"FNAME\": \"name\"}');
	SELECT mc_create_audience('steady', 'main', 'Steady', 'steady'); SELECT mc_start_worker()");
$crm->max("SELECT mc_sync_audience(audience) FROM mc_audience");
$node->wait_until("SELECT count(*) = 4 FROM mc_contact_state WHERE state = 'in_sync'", as => 'rita');
my $worker = $node->query('SELECT pid FROM mailchimp_sync.engine() WHERE is_worker');

sub source { return $crm->rita("SELECT state, detail FROM mc_source WHERE source = 'candidate'") }

# The other source is served by the worker that has been there all the time.
my $count = 0;
sub serves_others
{
	my ($after) = @_;
	$count++;
	$crm->ann("UPDATE calm.steady SET name = '$count'");
	McTest::poll("the steady one, $after", sub {
		my %members = $crm->members($steady);
		$members{'steady@crm.test'}{merge_fields}{FNAME} eq $count;
	});
	is($node->query('SELECT pid FROM mailchimp_sync.engine() WHERE is_worker'), $worker, "$after: the worker lives and serves the other source");
}

# Something happens, then the CRM writes; the source stops and says why.
sub stops
{
	my ($what, $sql, $detail, $state) = @_;
	$state //= 'stopped';
	$node->query($sql);
	McTest::poll("$what: the source stops", sub { $crm->rita("SELECT state FROM mc_audience WHERE audience = 'people'") eq 'failing' });
	like(source(), qr/^$state\|$detail$/, "$what: the source is $state and says why");
	like($crm->rita("SELECT detail FROM mc_audience WHERE audience = 'people'"), qr/^source "candidate": $detail$/, 'so does its audience');
	is($crm->rita("SELECT ok, value FROM mc_status WHERE item = 'source candidate'"), "f|$state", 'and the alarm');
	serves_others($what);
}

# Defined anew it is well, and what was written meanwhile arrives.
my $n = 0;
sub heals
{
	my ($what, %options) = @_;
	$n++;
	my ($key, $name, $table) = ($options{key} // 'id', $options{name} // 'first_name', $options{table} // 'crm.candidate');
	$node->query("UPDATE $table SET $name = 'N$n' WHERE ${key}::text = '1'");
	$node->query("SELECT mc_add_source('candidate', '$table', '$key', 'email', '{\"FNAME\": \"$name\"}', linked => 'linked')", as => $options{by} // 'ann')
	  unless $options{itself};
	McTest::poll("$what: the change", sub { $crm->shown('c1@crm.test') =~ /^subscribed\|N$n\|/ });
	$node->wait_until("SELECT NOT EXISTS (SELECT FROM mc_contact_state WHERE state = 'pending')", as => 'rita');
	is(source(), 'ok|', "$what: " . ($options{itself} ? 'it goes on by itself' : 'defined anew it is well'));
	is($crm->rita("SELECT ok FROM mc_status WHERE item = 'source candidate'"), 't', 'and the alarm is over');
}

# A trigger that finds no column notes every row, so any write is enough to show what is wrong.
my $write = "UPDATE crm.candidate SET email = email || ''";

stops('a mapped column that is renamed', "ALTER TABLE crm.candidate RENAME first_name TO given_name; $write", 'column candidate.first_name does not exist');
heals('a mapped column that is renamed', name => 'given_name');
stops('a mapped column that is dropped', "ALTER TABLE crm.candidate DROP given_name; $write", 'column candidate.given_name does not exist');
$node->query('ALTER TABLE crm.candidate ADD first_name text');
heals('a mapped column that is dropped');
stops('the column of a rule', "ALTER TABLE crm.candidate RENAME active TO alive; $write", 'column candidate.active does not exist');
$crm->ann(q{SELECT mc_alter_audience('people', '{"rule": "alive"}')});
heals('the column of a rule', itself => 1);
stops('the column of another rule', "ALTER TABLE crm.candidate RENAME alive TO active; $write", 'column candidate.alive does not exist');
$crm->ann("SELECT mc_drop_audience_source('people', 'candidate'); SELECT mc_add_audience_source('people', 'candidate', 'active')");
heals('the column of another rule', itself => 1);

# It is defined anew while the engine looks at it by the former definition, and fails (a rule would make it wait before)
$crm->ann(q{SELECT mc_alter_audience('people', '{"rule": null}')});
$node->wait_until("SELECT compare_asked_at IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source WHERE compare_from IS NOT NULL)
	FROM mailchimp_sync.audience WHERE audience = 'people'");
$node->query('ALTER TABLE crm.candidate RENAME first_name TO given_name');
my $admin = $node->session(as => 'ann');
$admin->query(q{BEGIN; SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{"FNAME": "given_name"}', linked => 'linked')});
my $before = $crm->rita("SELECT compared_at FROM mc_audience WHERE audience = 'people'");
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $worker");
$admin->query('COMMIT');
$node->wait_until("SELECT compared_at > '$before' FROM mc_audience WHERE audience = 'people'", as => 'rita');
is(source(), 'ok|', 'what failed by the former definition does not stop the new one');
heals('defined anew at the moment', name => 'given_name');
$node->query('ALTER TABLE crm.candidate RENAME given_name TO first_name');
heals('and back');
$crm->ann(q{SELECT mc_alter_audience('people', '{"rule": "active"}')});
stops('a flag that is no longer one', "ALTER TABLE crm.candidate ALTER linked DROP DEFAULT, ALTER linked TYPE integer USING 1;
	UPDATE crm.candidate SET first_name = 'x'", 'COALESCE types integer and boolean cannot be matched');
$node->query('ALTER TABLE crm.candidate ALTER linked TYPE boolean USING true');
heals('a flag that is no longer one');
$node->query("ALTER TABLE crm.candidate ALTER email TYPE varchar(200), ALTER first_name TYPE varchar(100)");
heals('types that do as well', itself => 1);

stops('the key is renamed', "ALTER TABLE crm.candidate RENAME id TO nr; $write", 'column candidate.id does not exist');
like($node->error("SELECT mc_add_source('candidate', 'crm.candidate', 'nr', 'email')", as => 'ann'), qr/42703: keys of source "candidate" for crm.owner: column c.id does not exist/,
	'what else has to be defined anew is named');
$crm->ann("SELECT mc_unwatch('candidate', 'crm.owner')");
heals('the key is renamed', key => 'nr');
stops('the key is dropped', "ALTER TABLE crm.candidate ADD id integer; UPDATE crm.candidate SET id = nr; ALTER TABLE crm.candidate DROP nr; $write",
	'column candidate.nr does not exist');
heals('the key is dropped');

# integer, then bigint, with a contact that needs it; who owns an address stays who it was (D13)
$crm->ann("INSERT INTO crm.candidate (id, email, linked) VALUES (99, 'both\@crm.test', true), (100, 'both\@crm.test', true)");
$node->wait_until("SELECT count(*) = 1 FROM mc_contact_state WHERE contact_key = '100' AND state = 'conflict'");
$crm->ann("ALTER TABLE crm.candidate ALTER id TYPE bigint; INSERT INTO crm.candidate (id, email, linked) VALUES (3000000000, 'big\@crm.test', true)");
McTest::poll('the big key', sub { $crm->shown('big@crm.test') eq 'subscribed||' });
heals('a key that becomes bigint', itself => 1);
is($crm->max("SELECT mc_sync_member('candidate', 3000000000)"), 1, 'it is called by that');
$crm->ann("UPDATE crm.candidate SET linked = NOT linked WHERE id IN (99, 100); UPDATE crm.candidate SET linked = NOT linked WHERE id IN (99, 100)");
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT compared_at >= mailchimp_sync.clock() - interval '1 minute' FROM mc_audience WHERE audience = 'people'");
McTest::poll('99 to be in step', sub { $crm->state(99) eq 'in_sync|' });
is($crm->state(100) =~ s/\|.*//r, 'conflict', 'D13: the lower key comes first still');
$crm->ann('DELETE FROM crm.candidate WHERE id IN (99, 100)');
$node->wait_until("SELECT count(*) = 0 FROM mc_contact_state WHERE contact_key IN ('99', '100') AND state <> 'outside'");
# found by the comparison alone: nothing noted its row
$node->query("ALTER TABLE crm.candidate ALTER id TYPE numeric; SET session_replication_role = replica;
	INSERT INTO crm.candidate (id, email, linked) VALUES (9223372036854775808, 'huge\@crm.test', true), (9223372036854775809, 'last\@crm.test', false)");
$crm->max("SELECT mc_sync_audience('people')");
McTest::poll('the huge key', sub { $crm->shown('huge@crm.test') eq 'subscribed||' });
heals('a key that becomes numeric', itself => 1);
$node->query("ALTER TABLE crm.candidate ALTER id TYPE text; $write");
heals('a key that becomes text', itself => 1);
is($crm->status, 'in_sync 5 not_linked 1 outside 2', 'these are the contacts that there were');
$crm->ann("DELETE FROM crm.candidate WHERE length(id) > 10; ALTER TABLE crm.candidate ALTER id TYPE bigint USING id::bigint");
heals('and bigint again', itself => 1);
$crm->ann("SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id')");

$node->query("ALTER TABLE crm.candidate ALTER id TYPE text; SET session_replication_role = replica;
	INSERT INTO crm.candidate (id, email, linked, owner_id) VALUES ('no number', 'word\@crm.test', true, 77); RESET session_replication_role;
	INSERT INTO crm.owner VALUES (77, 'x')");
McTest::poll('the key that is a word', sub { $crm->shown('word@crm.test') eq 'subscribed||' });
heals('a key that becomes text, of which a watched table tells', itself => 1);
# Its row goes while the audience keeps whom it has, and another one gets the address after the key is a number again
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "keep"}')});
$crm->ann("DELETE FROM crm.candidate WHERE id LIKE 'no%'");
$node->wait_until("SELECT count(*) = 1 FROM mc_contact_state WHERE contact_key = 'no number' AND state = 'outside'");
$crm->ann("ALTER TABLE crm.candidate ALTER id TYPE bigint USING id::bigint; INSERT INTO crm.candidate (id, first_name, email, linked) VALUES (77, 'heir', 'word\@crm.test', true)");
McTest::poll('the heir of a word', sub { $crm->shown('word@crm.test') eq 'subscribed|heir|' });
$crm->ann("DELETE FROM crm.candidate WHERE id = 77");
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "archive"}')});

# Names that people give to tables
# while the engine, which has asked by the former name, waits for the table
my $renaming = $node->session;
$renaming->query('BEGIN; ALTER TABLE crm.candidate RENAME TO "Kandidaat ""x"""');
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE a.backend_type = 'mailchimp_sync worker' AND NOT l.granted)");
$renaming->query('COMMIT');
heals('a table that is renamed', itself => 1, table => 'crm."Kandidaat ""x"""');
$node->query('ALTER TABLE crm."Kandidaat ""x""" RENAME TO candidate; ALTER SCHEMA crm RENAME TO "CRM é"');
heals('a schema that is renamed', itself => 1, table => '"CRM é".candidate');
stops('names inside of a query', 'UPDATE "CRM é".owner SET name = name || name', 'watched relation "CRM é".owner: relation "crm.candidate" does not exist');
$node->query('ALTER SCHEMA "CRM é" RENAME TO crm');
heals('names inside of a query');

# Watched tables
stops('a watched column that is renamed', "ALTER TABLE crm.owner RENAME id TO nr; UPDATE crm.owner SET name = 'x'", 'watched relation crm.owner: column "id" does not exist');
$crm->ann("SELECT mc_unwatch('candidate', 'crm.owner')");
heals('a watched column that is renamed', itself => 1);
$crm->ann("SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.nr')");
my $compared = $crm->rita("SELECT compared_at FROM mc_audience WHERE audience = 'people'");
$node->query("BEGIN; UPDATE crm.owner SET name = 'y'; DROP TABLE crm.owner; COMMIT");
$node->wait_until("SELECT compared_at > '$compared' FROM mc_audience WHERE audience = 'people'", as => 'rita');
like(source(), qr/^ok\|watched relation \d+ is gone; mc_add_source forgets it$/, 'a watched table that is dropped: what it noted means a comparison, and the source says so');
is($crm->rita("SELECT ok FROM mc_status WHERE item = 'source candidate'"), 'f', 'so does the alarm');
serves_others('a watched table that is dropped');
heals('a watched table that is dropped');

# A function of an expression, with its table
$crm->ann("CREATE FUNCTION crm.name_of(_id bigint) RETURNS text LANGUAGE sql STABLE AS 'SELECT first_name FROM crm.candidate WHERE id = _id';
	SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{\"FNAME\": \"crm.name_of(id)\"}', linked => 'linked')");
stops('a function that is dropped', "DROP FUNCTION crm.name_of(bigint); UPDATE crm.candidate SET email = 'c1\@crm.test' WHERE id = 1; $write;
	INSERT INTO crm.candidate (id, email, linked) VALUES (7, 'c7\@crm.test', true)", 'function crm.name_of\(bigint\) does not exist');
heals('a function that is dropped');
is($crm->shown('c7@crm.test'), 'subscribed||', 'who came meanwhile is there');

# Rights, views, and what is gone
stops('rights that are taken away', "REVOKE ALL ON crm.candidate FROM ann; ALTER TABLE crm.candidate OWNER TO postgres; UPDATE crm.candidate SET first_name = 'secret'",
	'permission denied for table candidate');
$node->query('ALTER TABLE crm.candidate OWNER TO ann; GRANT ALL ON crm.candidate TO ann');
heals('rights that are taken away');
$crm->ann("CREATE VIEW crm.everybody AS SELECT id, first_name AS name, email, linked, active FROM crm.candidate;
	SELECT mc_add_source('candidate', 'crm.everybody', 'id', 'email', '{\"FNAME\": \"name\"}', linked => 'linked');
	SELECT mc_watch('candidate', 'crm.candidate', 'SELECT id FROM changed')");
$node->query("UPDATE crm.candidate SET first_name = 'by view' WHERE id = 1");
McTest::poll('the view', sub { $crm->shown('c1@crm.test') =~ /^subscribed\|by view\|/ });
stops('a view that is another one', "DROP VIEW crm.everybody; CREATE VIEW crm.everybody AS SELECT id FROM crm.candidate; UPDATE crm.candidate SET first_name = 'x'",
	'its relation is gone', 'missing');
heals('a view that is another one');
stops('a table that is dropped', "UPDATE crm.candidate SET first_name = 'noted'; DROP TABLE crm.candidate CASCADE; SELECT mc_sync_audience('people')",
	'its relation is gone', 'missing');
like($node->error("SELECT count(*) FROM mc_preview('people')", as => 'max'), qr/42P01: source "candidate" cannot be read/, 'the preview says it, too');
$crm->ann("CREATE TABLE crm.candidate (id bigint PRIMARY KEY, first_name text, email text, linked boolean, active boolean);
	INSERT INTO crm.candidate VALUES (1, 'again', 'c1\@crm.test', true, true)");
heals('a table that is dropped');

# The owner, whose place only a superuser can take
$node->role('eve', level => 'admin');
$node->query("GRANT USAGE ON SCHEMA crm TO eve; GRANT SELECT ON crm.candidate TO eve; GRANT ann TO eve");
$node->query("SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{\"FNAME\": \"first_name\"}', linked => 'linked')", as => 'eve');
heals('another owner', itself => 1);
stops('an owner who is dropped', "DROP OWNED BY eve; DROP ROLE eve; UPDATE crm.candidate SET first_name = 'orphan'", '.*its owner is gone|role with OID \\d+, the owner of the source, does not exist', 'missing');
like($node->error("SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email')", as => 'ann'), qr/42501: must be a member of role \d+, which owns source/, 'nobody is a member');
heals('an owner who is dropped', by => 'postgres');

done_testing();
