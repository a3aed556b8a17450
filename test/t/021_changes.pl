# Changes of the CRM arrive, each once and none too early (R1, R32, R33, R57, R65-R69, R75, N1, N5, N8, N9, D13): rows
# of every kind of statement, of watched tables, made while a request is under way, of the mapping, of equal addresses.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 20);
my ($node, $sim, $list) = @$crm{qw(node sim list)};

$crm->sync;
is($crm->status, 'in_sync 20', 'all are there');
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# A rollback leaves no trace and sends nothing (N1)
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("BEGIN; UPDATE crm.candidate SET first_name = 'no'; DELETE FROM crm.candidate WHERE id = 1; TRUNCATE crm.owner; ROLLBACK");
$crm->ann("BEGIN; SELECT mc_sync_audience('people'); SELECT mc_sync_member('candidate', 1); SELECT mc_retry(); ROLLBACK");
$crm->run;
is($crm->requests, '', 'N1: ROLLBACK sends nothing');
is($crm->rita("SELECT value FROM mc_status WHERE item = 'events'"), 0, 'and leaves nothing to do');
$crm->ann("BEGIN; UPDATE crm.candidate SET first_name = 'kept' WHERE id = 1; SAVEPOINT a;
	UPDATE crm.candidate SET first_name = 'no' WHERE id IN (1, 2); ROLLBACK TO a; COMMIT");
$crm->run;
is($crm->pushed, '1', 'nor does a savepoint that was rolled back');
is($crm->shown('c1@crm.test'), 'subscribed|kept|g1', 'what was committed is sent');

# -----------------------------------------------------------------------------------------------------------------
# Every kind of statement
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("INSERT INTO crm.candidate SELECT g, 'F' || g, 'L' || g, 'c' || g || '\@crm.test', 1, true, true, NULL FROM generate_series(21, 23) g");
$crm->run;
is($crm->pushed, '3', 'INSERT');
$crm->ann("UPDATE crm.candidate SET last_name = 'X' WHERE id IN (3, 4)");
$crm->run;
is($crm->pushed, '2', 'UPDATE: those rows alone');
$crm->ann("UPDATE crm.candidate SET active = active, owner_id = owner_id, last_name = 'Y' WHERE id = 3;
	UPDATE crm.candidate SET last_name = 'Z' WHERE id = 3; UPDATE crm.candidate SET last_name = 'Last' WHERE id = 3");
$crm->run;
is($crm->pushed, '1', 'several changes of one row: one member in one request');
is($crm->member('c3@crm.test')->{merge_fields}{LNAME}, 'Last', 'with the last value');
$crm->ann("MERGE INTO crm.candidate c USING (VALUES (4, 'merged'), (24, 'merged')) AS v(id, name) ON c.id = v.id
	WHEN MATCHED THEN UPDATE SET first_name = v.name
	WHEN NOT MATCHED THEN INSERT (id, first_name, email) VALUES (v.id, v.name, 'c24\@crm.test')");
$crm->run;
is($crm->pushed, '2', 'MERGE');
$crm->ann("COPY crm.candidate (id, email) FROM STDIN;\n25\tc25\@crm.test\n\\.\n");
$crm->run;
is($crm->pushed, '1', 'COPY');
$crm->ann("UPDATE crm.candidate SET first_name = NULL, last_name = '' WHERE id = 4");
$crm->run;
is_deeply([ @{ $crm->member('c4@crm.test')->{merge_fields} }{qw(FNAME LNAME)} ], [ '', '' ], 'a value that is gone in the CRM is gone at Mailchimp');
$crm->ann("UPDATE crm.candidate SET id = 26, first_name = 'moved' WHERE id = 25");
$crm->run;
is($crm->rita("SELECT contact_key, state FROM mc_contact_state WHERE email = 'c25\@crm.test' ORDER BY 1"), "25|outside\n26|in_sync", 'a changed key: another contact');
is($crm->shown('c25@crm.test'), 'subscribed|moved|', 'with the same member');
is($crm->rita("SELECT contact_key FROM mc_member WHERE email = 'c25\@crm.test'"), '26', 'which is the other\'s now');

# A changed owner name reaches all of the owner's candidates (R33); what nobody maps reaches nobody.
$crm->journal;
$crm->ann("UPDATE crm.owner SET name = 'Ann Married' WHERE id = 1");
$crm->run;
my %members = $crm->members;
my $ours = $crm->ann("SELECT count(*) FROM crm.candidate WHERE owner_id = 1");
is($crm->pushed, $ours, 'mc_watch: all of the owner\'s candidates');
is(scalar(grep { $_->{merge_fields}{OWNERNAME} eq 'Ann Married' } values %members), $ours, 'R33, R75: have the new name');
$crm->ann("DELETE FROM crm.owner WHERE id = 2");
$crm->run;
%members = $crm->members;
is(scalar(grep { $_->{merge_fields}{OWNERNAME} eq 'Bob Owner' } values %members), 0, 'an owner that is gone');
$crm->ann("TRUNCATE crm.owner; INSERT INTO crm.owner VALUES (1, 'New Ann'), (2, 'New Bob')");
$crm->run;
%members = $crm->members;
is(scalar(grep { $_->{merge_fields}{OWNERNAME} =~ /^New / } values %members), $crm->ann('SELECT count(*) FROM crm.candidate WHERE owner_id IS NOT NULL'), 'TRUNCATE of a watched table, and new rows');
$crm->ann("UPDATE crm.owner SET name = 'Last ' || name; SELECT mc_unwatch('candidate', 'crm.owner')");
$crm->run;
%members = $crm->members;
is(scalar(grep { $_->{merge_fields}{OWNERNAME} =~ /^Last / } values %members), $crm->ann('SELECT count(*) FROM crm.candidate WHERE owner_id IS NOT NULL'), 'what was noted of a table is not lost by mc_unwatch');
$crm->ann(q{SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id')});

# -----------------------------------------------------------------------------------------------------------------
# A change made while its contact is under way is sent again
# -----------------------------------------------------------------------------------------------------------------

for my $when ('before', 'after')
{
	$crm->journal;
	$crm->ann("UPDATE crm.candidate SET first_name = 'one' WHERE id = 5");
	$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => $when);
	my $session = $node->session(as => 'max');
	McTest::begin($session, 'CALL mc_run();');
	$sim->wait_held;
	$crm->ann("UPDATE crm.candidate SET first_name = 'two' WHERE id IN (5, 7)");
	$sim->release;
	$session->query('');
	$session->quit;
	is($crm->shown('c5@crm.test') . ' ' . $crm->shown('c7@crm.test'), 'subscribed|two|g2 subscribed|two|g1', "changed while it is under way ($when): the newer value arrives");
	is($crm->state(5), 'in_sync|', 'and that is known');
	my @carried = grep { $_->{email_address} eq 'c5@crm.test' } map { @{ $_->{body}{members} } } grep { $_->{route} eq 'POST /lists/{list_id}' } $crm->journal;
	is(join(' ', map { $_->{merge_fields}{FNAME} } @carried), 'one two', 'in a request after the first');
	$crm->ann("UPDATE crm.candidate SET first_name = 'zero' WHERE id IN (5, 7)");
	$crm->run;
}

# Back to the old value meanwhile: what is there at last is what is wanted.
$crm->journal;
$crm->ann("UPDATE crm.candidate SET first_name = 'there' WHERE id = 5");
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
my $session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("UPDATE crm.candidate SET first_name = 'zero' WHERE id = 5");
my $second = $node->session(as => 'max');
McTest::begin($second, 'CALL mc_run();');
$node->wait_until("SELECT value = '0' FROM mc_status WHERE item = 'events'");
$sim->release;
$_->query(''), $_->quit for $session, $second;
is($crm->shown('c5@crm.test'), 'subscribed|zero|g2', 'there and back again');

# -----------------------------------------------------------------------------------------------------------------
# Changing the mapping and the rule
# -----------------------------------------------------------------------------------------------------------------

$crm->journal;
$crm->define(q{'{"FNAME": "coalesce(first_name, ''?'')", "LNAME": "last_name", "OWNERNAME": "(SELECT o.name FROM crm.owner o WHERE o.id = owner_id)"}'},
	q{tags => 'groups'}, q{linked => 'linked'});
$crm->run;
is($crm->pushed, $crm->ann('SELECT count(*) FROM crm.candidate WHERE first_name IS NULL'), 'mc_add_source again: those that differ');
$crm->define(q{'{"FNAME": "first_name", "SHOUT": "upper(last_name)"}'}, q{tags => 'groups'}, q{tag_rules => '{"odd": "id % 2 = 1"}'}, q{linked => 'linked'});
$crm->run;
is($crm->requests, 'POST /lists/{list_id}/merge-fields 200, POST /lists/{list_id} 200', 'a new merge field is made');
is($crm->member('c3@crm.test')->{merge_fields}{SHOUT}, 'LAST', 'and filled');
is(join(',', sort @{ $crm->member('c3@crm.test')->{tags} }), 'g0,odd', 'R68, R69: tags by rules');
$crm->define;
$crm->run;
$crm->journal;

$crm->ann(q{SELECT mc_alter_audience('people', '{"rule": "id <= 24"}')});
is($crm->max("SELECT action, contact_key, reason FROM mc_preview('people')"), 'leave|26|the rule does not take it', 'R111: the preview of a changed rule');
$crm->run;
is($crm->requests, 'DELETE /lists/{list_id}/members/{subscriber_hash} 204', 'a changed rule');
$crm->ann(q{SELECT mc_alter_audience('people', '{"rule": "active"}')});
$crm->run;
is($crm->shown('c25@crm.test'), 'subscribed|moved|', 'and back');
$crm->journal;

# -----------------------------------------------------------------------------------------------------------------
# A renamed or dropped column: the CRM goes on, the source stops with the reason, defining it anew heals
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("ALTER TABLE crm.candidate RENAME COLUMN last_name TO family_name; UPDATE crm.candidate SET family_name = 'kept' WHERE id = 8;
	DELETE FROM crm.candidate WHERE id = 9; INSERT INTO crm.candidate (id, email) VALUES (30, 'c30\@crm.test')");
pass('N17: the CRM writes');
$crm->run;
is($crm->requests, '', 'nothing is sent');
like($crm->rita("SELECT state, detail FROM mc_source"), qr/^stopped\|column .*last_name.* does not exist$/, 'the source is stopped and says why');
like($crm->rita("SELECT state, detail FROM mc_audience"), qr/^failing\|source "candidate": column /, 'so does the audience');
is($crm->rita("SELECT string_agg(item, ', ' ORDER BY item) FROM mc_status WHERE NOT ok AND item <> 'worker'"), 'audience people, source candidate', 'and mc_status');
is($crm->status, 'in_sync 25 outside 1', 'what was in sync is still so called');
like($node->error("SELECT count(*) FROM mc_preview('people')", as => 'max'), qr/42703: source "candidate" cannot be read: column/, 'the preview says it, too');
$crm->run;
$crm->sync;
is($crm->requests, '', 'asking for it does not help');
my @mapping = @McCrm::source;
s/last_name/family_name/ for @mapping;
$crm->define(@mapping);
$crm->run;
is(join(', ', sort split /, /, $crm->requests), 'DELETE /lists/{list_id}/members/{subscriber_hash} 204, POST /lists/{list_id} 200', 'defined anew it goes on');
is($crm->member('c8@crm.test')->{merge_fields}{LNAME} . $crm->shown('c9@crm.test') . $crm->shown('c30@crm.test'), 'keptarchived|F9|g0subscribed||', 'and nothing was lost');
is($crm->rita("SELECT state, detail IS NULL FROM mc_source"), 'ok|t', 'it is well');

$crm->ann("ALTER TABLE crm.candidate DROP COLUMN family_name; UPDATE crm.candidate SET first_name = 'after' WHERE id = 8");
$crm->run;
like($crm->rita("SELECT state FROM mc_source"), qr/^stopped/, 'a column that was dropped');
$crm->define(q{'{"FNAME": "first_name"}'}, q{tags => 'groups'}, q{linked => 'linked'});
$crm->run;
is($crm->shown('c8@crm.test'), 'subscribed|after|g2', 'the same');

# An owner of a source who lost the right to read it; a lock that is held too long.
$node->query("REVOKE ALL ON crm.candidate FROM ann; ALTER TABLE crm.candidate OWNER TO postgres; GRANT USAGE ON SCHEMA crm TO PUBLIC;
	UPDATE crm.candidate SET first_name = 'secret' WHERE id = 8");
$crm->run;
like($crm->rita("SELECT state, detail FROM mc_source"), qr/^stopped\|permission denied/, 'N9: no rights, no values');
$node->query("ALTER TABLE crm.candidate OWNER TO ann; GRANT ALL ON crm.candidate TO ann");
$crm->define(q{'{"FNAME": "first_name"}'}, q{tags => 'groups'}, q{linked => 'linked'});
$crm->setting(expression_timeout => '200ms');
my $migration = $node->session(as => 'ann');
$migration->query("BEGIN; UPDATE crm.candidate SET first_name = 'locked' WHERE id = 8; LOCK TABLE crm.candidate");
my $run = $node->session(as => 'max');
McTest::begin($run, 'CALL mc_run();');
$node->wait_until("SELECT state = 'waiting' FROM mc_source");
like($crm->rita("SELECT detail FROM mc_source"), qr/expression_timeout \(200 ms\)/, 'a migration\'s lock: the source waits');
$migration->query('COMMIT');
$migration->quit;
$run->query('');
$run->quit;
$crm->run until $crm->rita("SELECT state FROM mc_source") eq 'ok' && $crm->shown('c8@crm.test') eq 'subscribed|locked|g2';
pass('and goes on by itself');
$crm->setting(expression_timeout => '5s');

# -----------------------------------------------------------------------------------------------------------------
# Equal addresses within a source (R66, D13)
# -----------------------------------------------------------------------------------------------------------------

$crm->define(q{'{"FNAME": "first_name"}'}, q{linked => 'linked'});
$crm->run;
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (102, 'B', 'Same\@crm.test'), (1000, 'C', 'same\@crm.test')");
is($crm->max("SELECT action, contact_key, reason FROM mc_preview('people') ORDER BY 2 DESC"),
	"subscribe|102|\nconflict|1000|contact \"102\" of source \"candidate\" has the same address and comes first", 'D13: lowest key first, as a number; the preview shows it');
$crm->run;
is($crm->state(102) . ' ' . $crm->state(1000), 'in_sync| conflict|contact "102" of source "candidate" has the same address and comes first', 'and so it comes');
is($crm->shown('Same@crm.test'), 'subscribed|B|', 'the first one\'s data');
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (101, 'A', 'SAME\@crm.test')");
$crm->run;
is($crm->shown('SAME@crm.test'), 'subscribed|A|', 'one that comes before them takes over');
is(join(' ', map { $crm->state($_) =~ /^(\w+)/ } 101, 102, 1000), 'in_sync conflict conflict', 'the states follow');
is($crm->rita("SELECT contact_key FROM mc_member WHERE email = 'SAME\@crm.test'"), '101', 'one contact stands behind the member');
$crm->ann("DELETE FROM crm.candidate WHERE id = 101");
$crm->requests;
$crm->run;
is($crm->requests, 'POST /lists/{list_id} 200', 'the owner leaves: nobody is archived');
is($crm->shown('Same@crm.test'), 'subscribed|B|', 'the next in line takes over, with its own data');
is(join(' ', map { $crm->state($_) =~ /^(\w+)/ } 101, 102, 1000), 'outside in_sync conflict', 'the states follow');
$crm->ann("UPDATE crm.candidate SET linked = false WHERE id = 102");
$crm->run;
is($crm->shown('same@crm.test'), 'subscribed|C|', 'and the next');
$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 1000");
$crm->run;
is($crm->shown('same@crm.test'), 'archived|C|', 'until nobody is left');
$crm->ann("UPDATE crm.candidate SET linked = true WHERE id = 102");
$crm->run;
is($crm->shown('Same@crm.test'), 'subscribed|B|', 'who comes back is subscribed again');

# Text keys follow the byte order everywhere.
$crm->ann("CREATE TABLE crm.person (code text PRIMARY KEY, email text);
	INSERT INTO crm.person VALUES ('b', 'twice\@crm.test'), ('A', 'twice\@crm.test'), ('a', 'twice\@crm.test');
	SELECT mc_add_source('person', 'crm.person', 'code', 'email'); SELECT mc_drop_audience('people');
	SELECT mc_create_audience('people', 'main', 'Customers', 'person')");
is($crm->max("SELECT action, contact_key FROM mc_preview('people')"), "subscribe|A\nconflict|a\nconflict|b", 'text keys: preview');
$crm->sync;
is($crm->rita("SELECT contact_key, state FROM mc_contact_state ORDER BY contact_key COLLATE \"C\""), "A|in_sync\na|conflict\nb|conflict", 'and run');

# A source that is dropped under an audience that is on: there is nothing to do any more.
$crm->ann("SELECT mc_drop_source('person')");
$crm->requests;
$crm->run;
is($crm->requests, '', 'no source: mc_run ends, and nothing happens at Mailchimp');
is($crm->shown('twice@crm.test'), 'subscribed||', 'who was there stays');
like($node->error("SELECT mc_sync_audience('people')", as => 'max'), qr/55000: audience "people" has no source/, 'nothing to compare');

# A new contact comes while the audience is being dropped.
$crm->ann("SELECT mc_add_source('person', 'crm.person', 'code', 'email'); SELECT mc_add_audience_source('people', 'person')");
$crm->sync;
$crm->setting(send => 'off');
my $dropping = $node->session(as => 'ann');
$dropping->query("BEGIN; SELECT mc_drop_audience('people')");
$crm->ann("INSERT INTO crm.person VALUES ('late', 'late at crm.test')");
$crm->run;
$dropping->query('COMMIT');
$dropping->quit;
is($node->query("SELECT string_agg(email, ' ') FROM mailchimp_sync.contact"), 'late at crm.test', 'what was stored meanwhile');
$node->query('SELECT mailchimp_sync.tidy()');
is($node->query('SELECT count(*) FROM mailchimp_sync.contact'), 0, 'is cleared away');

done_testing();
