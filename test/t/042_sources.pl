# Several sources in one audience (R1, R56, R66, R111, D13, D20, N4, N5, N8): each with its mapping and its rule; of equal
# addresses one owner, by the order of the sources and then the lowest key, the others in conflict with the winner named,
# and taking over in turn whatever takes the owner away. Without Mailchimp: test/sql/several_sources.sql.

use strict;
use warnings;
use JSON::PP;
use List::Util qw(uniq);
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', demo => { lists => [ { name => 'Customers' }, { name => 'Others' } ] });
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $delete = 'DELETE /lists/{list_id}/members/{subscriber_hash} 204';
my $post = 'POST /lists/{list_id} 200';

sub act { my ($email, $action) = @_; $sim->post('/_sim/act', { list => $list, email => $email, action => $action }) }

# Client persons and contact persons, as in AuditCase (R56): clients come first.
$crm->ann(q{SELECT mc_drop_audience('people');
	CREATE TABLE crm.client (id bigint PRIMARY KEY, name text, email text, active boolean DEFAULT true, linked boolean DEFAULT true);
	CREATE TABLE crm.person (code text PRIMARY KEY, name text, company text, email text, active boolean DEFAULT true, linked boolean DEFAULT true);
	SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{"FNAME": "name"}', linked => 'linked');
	SELECT mc_add_source('person', 'crm.person', 'code', 'email', '{"FNAME": "name", "COMPANY": "company"}', linked => 'linked');
	SELECT mc_create_audience('people', 'main', 'Customers');
	SELECT mc_add_audience_source('people', 'client', 'active');
	SELECT mc_add_audience_source('people', 'person', 'active')});

# What people see of all contacts with an address: source, key, state and, of a conflict, with whom.
sub states
{
	my ($email) = @_;
	return join ', ', split /\n/, $crm->rita("SELECT format('%s %s %s', source, contact_key, state)
		|| coalesce(' ' || (SELECT m[1] || ' ' || m[2] FROM regexp_match(detail, 'contact \"(.*)\" of source \"(.*)\" has') m), '')
		FROM mc_contact_state WHERE lower(email) = lower('$email') ORDER BY source, contact_key");
}

sub here { return join ', ', grep { !/ outside$/ } split /, /, states(@_) }
sub shown { my ($email) = @_; my $m = $crm->member($email); return join '|', $m->{status} // 'none', @{ $m->{merge_fields} // {} }{qw(FNAME COMPANY)} }

$crm->ann("INSERT INTO crm.client VALUES (9, 'Client9', 'x\@crm.test'), (10, 'Client10', 'X\@crm.test'), (11, 'Client11', 'c11\@crm.test');
	INSERT INTO crm.person VALUES ('a', 'PersonA', 'Acme', 'x\@crm.test'), ('b', 'PersonB', 'Bmce', 'b\@crm.test')");
$crm->sync;
is($crm->pushed, '2 1', 'R56: two kinds of records in one list, a request for each');
is(states('x@crm.test'), 'client 10 conflict 9 client, client 9 in_sync, person a conflict 9 client', 'D13, R66: one owner, and the others say who');
is(join(' ', map { shown($_) } qw(x@crm.test c11@crm.test b@crm.test)), 'subscribed|Client9| subscribed|Client11| subscribed|PersonB|Bmce', 'R1: each by its own mapping');
is($crm->status, 'conflict 2 in_sync 3', 'N8: the states add up');
$crm->sync;
is($crm->requests, '', 'nothing differs');

# -----------------------------------------------------------------------------------------------------------------
# The owner leaves, in each way, and comes back (R66, D13): nobody is archived meanwhile
# -----------------------------------------------------------------------------------------------------------------

for my $way (
	[ 'the rule', "UPDATE crm.client SET active = false WHERE id IN (9, 10)", "UPDATE crm.client SET active = true WHERE id IN (9, 10)" ],
	[ 'the link flag', "UPDATE crm.client SET linked = false WHERE id IN (10, 9)", "UPDATE crm.client SET linked = true WHERE id IN (9, 10)" ],
	[ 'a deleted row', "DELETE FROM crm.client WHERE id IN (9, 10)", "INSERT INTO crm.client VALUES (9, 'Client9', 'x\@crm.test'), (10, 'Client10', 'X\@crm.test')" ],
	[ 'no address', "UPDATE crm.client SET email = NULL WHERE id IN (9, 10)", "UPDATE crm.client SET email = 'x\@crm.test' WHERE id IN (9, 10)" ])
{
	my ($how, $out, $in) = @$way;
	$crm->ann($out);
	is($crm->max("SELECT action, source, contact_key FROM mc_preview('people') WHERE action <> 'skip'"), 'update|person|a', "$how takes the first two away: the preview");
	$crm->run;
	is($crm->requests . ' ' . shown('x@crm.test'), "$post subscribed|PersonA|Acme", "$how: the next in line takes over, with its data");
	is($crm->rita("SELECT source, contact_key FROM mc_member WHERE email = 'x\@crm.test'"), 'person|a', "$how: and stands behind the member");
	$crm->ann($in);
	is($crm->max("SELECT action, source, contact_key FROM mc_preview('people') WHERE action <> 'skip' ORDER BY 1, 2, 3"), "conflict|client|10\nconflict|person|a\nupdate|client|9",
		"$how: the preview of their coming back");
	is($crm->max("SELECT after ->> 'merge_fields' FROM mc_preview('people') WHERE contact_key = '9'"), '{"FNAME": "Client9", "COMPANY": ""}', "$how: what is the other's is emptied");
	$crm->run;
	is($crm->requests . ' ' . shown('x@crm.test'), "$post subscribed|Client9|", "$how: the first takes it back, and nothing of the other's is left");
	is(states('x@crm.test'), 'client 10 conflict 9 client, client 9 in_sync, person a conflict 9 client', "$how: states");
}

my $of = "'people', 'client'";
$crm->max("SELECT mc_remove_member($of, 9)");
$crm->run;
is($crm->requests . ' ' . states('x@crm.test'), "$post client 10 in_sync, client 9 inactive, person a conflict 10 client", 'R66, R77: the user chooses which record is switched off');
$crm->max("SELECT mc_release_member($of, 9), mc_remove_member($of, 10)");
$crm->run;
is(states('x@crm.test'), 'client 10 inactive, client 9 in_sync, person a conflict 9 client', 'and another one');
$crm->max("SELECT mc_release_member($of, 10)");
$crm->ann("UPDATE crm.client SET email = 'y\@crm.test' WHERE id = 9");
$crm->run;
is(join(' ', map { shown($_) } qw(x@crm.test y@crm.test)), 'subscribed|Client10| subscribed|Client9|', 'R75: the owner has another address: both have a member');
is(states('x@crm.test') . ', ' . states('y@crm.test'), 'client 10 in_sync, person a conflict 10 client, client 9 in_sync', 'and their states');
$crm->ann("UPDATE crm.person SET email = 'y\@crm.test' WHERE code = 'b'; INSERT INTO crm.client VALUES (2, 'Client2', 'y\@crm.test')");
$crm->run;
is(shown('y@crm.test') . ' ' . states('y@crm.test'), 'subscribed|Client2| client 2 in_sync, client 9 conflict 2 client, person b conflict 2 client', 'a lower key comes, and others move to its address');
is($crm->member('b@crm.test')->{status}, 'archived', 'whom nobody claims any more is archived');
$crm->ann("DELETE FROM crm.client WHERE id IN (2, 9); DELETE FROM crm.person WHERE code = 'b'");
$crm->run;
is($crm->member('y@crm.test')->{status}, 'archived', 'when all leave at once, nobody stays behind');
$crm->ann("INSERT INTO crm.client VALUES (9, 'Client9', 'x\@crm.test')");
$crm->run;
$crm->requests;

# In one page: who goes is not even marked to leave.
$crm->ann("SELECT mc_pause('main'); BEGIN; DELETE FROM crm.client WHERE id = 11; INSERT INTO crm.client VALUES (12, 'Client12', 'c11\@crm.test'); COMMIT");
$crm->run;
is(states('c11@crm.test'), 'client 11 outside, client 12 pending', 'one goes and another one comes');
$crm->ann("SELECT mc_resume('main'); DELETE FROM crm.client WHERE id = 12; INSERT INTO crm.client VALUES (11, 'Client11', 'c11\@crm.test')");
$crm->run;
is(shown('c11@crm.test') . ' ' . states('c11@crm.test'), 'subscribed|Client11| client 11 in_sync, client 12 outside', 'and back');

# One after the other goes while the next has not been looked at: in each order of the pages.
for my $order ([ 9, 10, 'a' ], [ 'a', 10, 9 ], [ 10, 'a', 9 ])
{
	$crm->ann(join ';', map { /\d/ ? "UPDATE crm.client SET active = false WHERE id = $_" : "UPDATE crm.person SET active = false WHERE code = '$_'" } @$order);
	$crm->run;
	is($crm->member('x@crm.test')->{status}, 'archived', "all leave, in the order @$order");
	$crm->ann(join ';', map { /\d/ ? "UPDATE crm.client SET active = true WHERE id = $_" : "UPDATE crm.person SET active = true WHERE code = '$_'" } @$order);
	$crm->run;
	is(shown('x@crm.test') . ' ' . states('x@crm.test'), 'subscribed|Client9| client 10 conflict 9 client, client 9 in_sync, person a conflict 9 client', "and come back in the order @$order");
}
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# An owner that cannot be mailed
# -----------------------------------------------------------------------------------------------------------------

# Refused by Mailchimp for its data: the member stays as the former owner left it, and the others wait.
$crm->ann("INSERT INTO crm.client VALUES (21, 'Second', 'z\@crm.test')");
$crm->run;
my $fault = $sim->fault(method => 'POST', path => '^/lists/[^/]+$', times => -1, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("INSERT INTO crm.client VALUES (20, 'First', 'z\@crm.test')");
$crm->run;
$sim->delete("/_sim/faults/$fault");
is(states('z@crm.test') . ' ' . shown('z@crm.test'), 'client 20 refused, client 21 conflict 20 client subscribed|Second|', 'an owner that Mailchimp refuses: the others are in conflict with it, and the member stays');
$crm->ann("UPDATE crm.client SET linked = false WHERE id = 20");
$crm->run;
is(states('z@crm.test') . ' ' . shown('z@crm.test'), 'client 20 not_linked, client 21 in_sync subscribed|Second|', 'switched off, the next in line has it');

# Whose row cannot be evaluated any more keeps what it has.
$crm->ann(q{SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{"FNAME": "CASE WHEN name = ''bad'' THEN (1 / (id - id))::text ELSE name END"}', linked => 'linked')});
$crm->ann("UPDATE crm.client SET name = 'bad' WHERE id = 9");
$crm->run;
is(states('x@crm.test') . ' ' . shown('x@crm.test'), 'client 10 conflict 9 client, client 9 refused, person a conflict 9 client subscribed|Client9|', 'an expression fails for the owner: it stays the owner');
$crm->ann("UPDATE crm.client SET name = 'Client9' WHERE id = 9");
$crm->requests;
$crm->run;
is(states('x@crm.test') . ' ' . $crm->requests, 'client 10 conflict 9 client, client 9 in_sync, person a conflict 9 client ', 'and nothing has changed when it works again');

# Unsubscribed at Mailchimp: by the policy everybody with the address opted out, or the owner alone is inactive.
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_unsubscribe": "inactive"}')});
act('z@crm.test', 'unsubscribe');
$crm->later(660);
$crm->ann("UPDATE crm.client SET linked = true WHERE id = 20");
$crm->run;
is(states('z@crm.test'), 'client 20 inactive, client 21 conflict 20 client', 'R76: an inactive owner keeps its place');
$crm->ann("DELETE FROM crm.client WHERE id = 20");
$crm->run;
is(states('z@crm.test') . ' ' . shown('z@crm.test') =~ s/\|.*//r, 'client 20 outside, client 21 inactive unsubscribed', 'D10: nor is the next in line subscribed again');
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_unsubscribe": "opt_out"}')});
$crm->max("SELECT mc_opt_out('client', 9)");
is($crm->max("SELECT action, reason, count(*) FROM mc_preview('people') WHERE email ILIKE 'x\@crm.test' GROUP BY 1, 2"), 'skip|is in the opt-out group|3', 'D12: the owner opts out, and so has the address; the preview');
$crm->run;
is(states('x@crm.test') . ' ' . $crm->member('x@crm.test')->{status}, 'client 10 opted_out, client 9 opted_out, person a opted_out unsubscribed', 'N2: nobody takes over from who opted out');
$crm->max("SELECT mc_opt_in('client', 9)");
$crm->run;
is(states('x@crm.test') . ' ' . $crm->member('x@crm.test')->{status}, 'client 10 conflict 9 client, client 9 inactive, person a conflict 9 client unsubscribed', 'leaving the group subscribes nobody');

# Somebody of whom the CRM says so for the first time.
$crm->ann("INSERT INTO crm.client VALUES (30, 'Out', 'w\@crm.test'), (31, 'Next', 'w\@crm.test');
	SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{\"FNAME\": \"name\"}', linked => 'linked', opt_out => 'name = ''Out''')");
is($crm->max("SELECT action, contact_key, reason FROM mc_preview('people') WHERE email = 'w\@crm.test'"), "skip|30|is in the opt-out group\nskip|31|is in the opt-out group", 'N4: the preview knows that the address opts out with its owner');
$crm->run;
is(states('w@crm.test') . ' ' . shown('w@crm.test'), 'client 30 opted_out, client 31 opted_out none||', 'and so it comes');
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Sources come and go
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("DELETE FROM crm.client WHERE id IN (9, 10, 21, 30, 31); DELETE FROM crm.person; INSERT INTO crm.client VALUES (1, 'Client1', 'v\@crm.test');
	INSERT INTO crm.person VALUES ('v', 'PersonV', 'Vmce', 'v\@crm.test'), ('p', 'PersonP', 'Pmce', 'p\@crm.test')");
$crm->run;
$crm->requests;
$crm->ann("SELECT mc_drop_audience_source('people', 'client')");
$crm->run;
is($crm->requests, $post, 'a source is taken out: nobody leaves');
is(shown('v@crm.test') . ' ' . shown('c11@crm.test') . ' ' . $crm->status, 'subscribed|PersonV|Vmce subscribed|Client11| in_sync 2 outside 2', 'R66: the next in line takes over; the others stay there, and are no contacts');
is($crm->rita("SELECT source IS NULL, foreign_member FROM mc_member WHERE email = 'c11\@crm.test'"), 't|f', 'D20: as nobody\'s, still ours');
$crm->ann("SELECT mc_add_audience_source('people', 'client')");
$crm->run;
is(states('v@crm.test') . ' ' . shown('v@crm.test'), 'client 1 conflict v person, person v in_sync subscribed|PersonV|Vmce', 'D13: back again, it is the last');
is($crm->rita("SELECT source, contact_key FROM mc_member WHERE email = 'c11\@crm.test'"), 'client|11', 'and stands behind its members again');
$crm->ann("SELECT mc_drop_audience_source('people', 'person')");
$crm->run;
is(shown('v@crm.test') . ' ' . shown('p@crm.test'), 'subscribed|Client1| subscribed|PersonP|Pmce', 'mc_drop_audience_source of the owner\'s');
$crm->ann("SELECT mc_add_audience_source('people', 'person', 'active')");
$crm->run;
$crm->requests;
is(states('v@crm.test') . ' ' . states('p@crm.test'), 'client 1 in_sync, person v conflict 1 client person p in_sync', 'and back');

# A record of one kind becomes one of another in one transaction: nobody leaves for that, least of all for good.
for my $policy ('unsubscribe', 'archive')
{
	$crm->ann("SELECT mc_alter_audience('people', '{\"on_leave\": \"$policy\"}'); INSERT INTO crm.person VALUES ('l', 'Lead', 'Lmce', 'lead\@crm.test')");
	$crm->run;
	$crm->requests;
	$crm->ann("BEGIN; DELETE FROM crm.person WHERE code = 'l'; INSERT INTO crm.client VALUES (50, 'Customer', 'lead\@crm.test'); COMMIT");
	$crm->run;
	is($crm->requests . ' ' . shown('lead@crm.test') . ' ' . here('lead@crm.test'), "$post subscribed|Customer| client 50 in_sync", "$policy: a lead becomes a customer");
	$crm->ann("BEGIN; DELETE FROM crm.client WHERE id = 50; INSERT INTO crm.person VALUES ('l', 'Lead', 'Lmce', 'lead\@crm.test'); COMMIT");
	$crm->run;
	$crm->requests;
	# without events: the comparison comes to the one source before it has been through the other
	$node->query("SET session_replication_role = replica; DELETE FROM crm.person WHERE code = 'l'; INSERT INTO crm.client VALUES (50, 'Customer', 'lead\@crm.test')");
	$crm->sync;
	$node->query("SET session_replication_role = replica; DELETE FROM crm.client WHERE id = 50; INSERT INTO crm.person VALUES ('$policy', 'Lead', 'Lmce', 'lead\@crm.test')");
	$crm->sync;
	is($crm->requests . ' ' . shown('lead@crm.test') . ' ' . here('lead@crm.test'), "$post, $post subscribed|Lead|Lmce person $policy in_sync", "$policy: nor when it is found by comparing");
	$crm->ann("DELETE FROM crm.person WHERE code = '$policy'");
	$crm->run;
	isnt($crm->member('lead@crm.test')->{status}, 'subscribed', "$policy: it does leave in the end");
	act('lead@crm.test', 'delete_permanent');
	act('lead@crm.test', 'resubscribe');
	$crm->later(660);
	$crm->run;
}

# Tags are the owner's as well (D16).
$crm->ann(q{SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{"FNAME": "name"}', linked => 'linked', tag_rules => '{"client": "true", "both": "true"}');
	SELECT mc_add_source('person', 'crm.person', 'code', 'email', '{"FNAME": "name", "COMPANY": "company"}', linked => 'linked', tags => 'ARRAY[''person'', ''both'']')});
$sim->post('/_sim/act', { list => $list, email => 'v@crm.test', action => 'tag', tag => 'by hand' });
$crm->run;
sub tags { return join ',', sort @{ $crm->member('v@crm.test')->{tags} } }
is(tags(), 'both,by hand,client', 'D16: the tags of the first');
$crm->ann('UPDATE crm.client SET linked = false WHERE id = 1');
$crm->run;
is(tags(), 'both,by hand,person', 'then those of the next, and one that somebody put on at Mailchimp');
$crm->ann('UPDATE crm.client SET linked = true WHERE id = 1');
$crm->run;
is(tags(), 'both,by hand,client', 'and back');
$crm->requests;

# Dropped while a leave of its own is under way: who takes over brings the member back.
$sim->hold(method => 'DELETE', path => '/members/', when => 'after');
$crm->ann("UPDATE crm.client SET active = false WHERE id = 11; SELECT mc_add_audience_source('people', 'client', 'active')");
my $run = $node->session(as => 'max');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("INSERT INTO crm.person VALUES ('w', 'PersonW', 'Wmce', 'c11\@crm.test'); SELECT mc_drop_source('client')");
$sim->release;
$run->query('');
$run->quit;
$crm->run;
is(shown('c11@crm.test') . ' ' . states('c11@crm.test'), 'subscribed|PersonW|Wmce person w in_sync', 'mc_drop_source while a leave of its own is under way: the next in line is subscribed again');
is(shown('v@crm.test') . ' ' . $crm->status, 'subscribed|PersonV|Vmce in_sync 3 outside 3', 'and has taken over the others');

# -----------------------------------------------------------------------------------------------------------------
# At random: whatever happens, the preview says what will be done, and what is there in the end is what a plain query
# over the CRM says
# -----------------------------------------------------------------------------------------------------------------

my $seed = $ENV{SEED} // time;
srand $seed;
$crm->ann(q{SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{"FNAME": "name"}', linked => 'linked'); SELECT mc_drop_audience('people');
	TRUNCATE crm.client, crm.person; SELECT mc_create_audience('people', 'main', 'Others', 'client', 'active', on_unsubscribe => 'inactive');
	SELECT mc_add_audience_source('people', 'person', 'active')});
$list = $crm->ann("SELECT list_id FROM mc_audience");
$crm->sync;

my $first = q{SELECT DISTINCT ON (lower(email)) * FROM (
		SELECT 'client' AS source, id::text AS key, lpad(id::text, 9, '0') AS place, name, '' AS company, email FROM crm.client WHERE active AND linked
		UNION ALL SELECT 'person', code, code, name, company, email FROM crm.person WHERE active AND linked) w
	WHERE email IS NOT NULL ORDER BY lower(email), source, place COLLATE "C"};
my $number = 0;

sub address { return rand() < 0.1 ? 'NULL' : "'" . (rand() < 0.2 ? 'R' : 'r') . int(rand 6) . "\@crm.test'" }

# A change of one row; a new address (also by a row that goes and comes) takes several steps, and the preview shows the first.
sub change
{
	my ($round) = @_;
	my ($table, $key) = rand() < 0.5 ? ('client', 'id = ' . int rand 12) : ('person', "code = '" . chr(97 + rand 6) . "'");
	my ($value) = $key =~ /= (.*)/;
	my @changes = map { "UPDATE crm.$table SET $_ WHERE $key" } 'active = NOT active', 'linked = NOT linked', "name = 'N" . ++$number . "'";
	push @changes, "UPDATE crm.$table SET email = " . address() . " WHERE $key" if $round % 2;
	push @changes, "DELETE FROM crm.$table WHERE $key" if $round % 4;
	push @changes, 'INSERT INTO crm.' . ($table eq 'client' ? "client (id" : "person (company, code") . ', name, email) VALUES ('
	  . ($table eq 'client' ? '' : "'C$number', ") . "$value, 'N$number', " . address() . ') ON CONFLICT DO NOTHING' if $round % 4 != 2;
	return $changes[rand @changes];
}

my (@wrong, @unforeseen);
my $rounds = $ENV{ROUNDS} // 15;
for my $round (1 .. $rounds)
{
	my $moving = $round % 2;
	my $changes = join ';', map { change($round) } 1 .. 1 + rand 8;
	$crm->ann($changes);
	$crm->journal;
	my $foreseen = $crm->max("SELECT coalesce(string_agg(lower(email), ' ' ORDER BY lower(email) COLLATE \"C\") FILTER (WHERE action IN ('subscribe', 'update')), '')
		|| ' ' || count(*) FILTER (WHERE action = 'leave') FROM mc_preview('people')");
	my $conflicts = $crm->max("SELECT source, contact_key, reason FROM mc_preview('people') WHERE action = 'conflict' ORDER BY 1, 2");
	$crm->run;
	my @requests = $crm->journal;
	# one that was sent before the owner had been looked at is sent again
	my $done = join(' ', sort { $a cmp $b } uniq map { lc $_->{email_address} } map { @{ $_->{body}{members} } } grep { $_->{route} eq 'POST /lists/{list_id}' } @requests)
	  . ' ' . grep { $_->{method} eq 'DELETE' } @requests;
	push @unforeseen, "round $round: $changes\nforeseen: $foreseen\ndone: $done" if !$moving && $foreseen ne $done;
	my %members = $crm->members($list);
	my $there = join ' ', sort map { lc "$_->{email_address}=$_->{merge_fields}{FNAME}" . ($_->{merge_fields}{COMPANY} // '') } grep { $_->{status} eq 'subscribed' } values %members;
	my $wanted = $crm->ann("SELECT coalesce(string_agg(lower(email || '=' || name || company), ' ' ORDER BY lower(email || '=' || name || company) COLLATE \"C\"), '') FROM ($first) f");
	push @wrong, "round $round: $changes\nwanted: $wanted\nthere: $there" if $there ne $wanted;
	my $said = $node->query("SELECT source, contact_key, detail FROM mc_contact_state WHERE state = 'conflict' ORDER BY 1, 2");
	my $right = $node->query("SELECT s.source, s.contact_key, format('contact \"%s\" of source \"%s\" has the same address and comes first', f.key, f.source)
		FROM mc_contact_state s JOIN ($first) f ON lower(f.email) = lower(s.email) WHERE s.state = 'conflict' ORDER BY 1, 2");
	push @wrong, "round $round: $changes\nsaid: $said\nshould: $right\npreview: $conflicts" if $said ne $right || (!$moving && $conflicts ne $said);
	push @wrong, "round $round: pending: $_" for grep { $_ } $node->query("SELECT source, contact_key, detail FROM mc_contact_state WHERE state = 'pending'");
}
is(join("\n", @wrong), '', "after each of $rounds rounds there is at Mailchimp what there should be (SEED=$seed)");
is(join("\n", @unforeseen), '', "N4: and the preview said what would be done (SEED=$seed)");

done_testing();
