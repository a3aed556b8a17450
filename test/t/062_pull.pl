# The members of lists come here: all of them once, then what changes; who moved, who was deleted, and what page counts for
# nothing (R82-R84, R87, R89, R95, D11, D12, D14, D15). What the CRM's tables get of it is 062_inbound's, what is decided per field
# 063_both's. Pages hold three members, so that each walk has several.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my @fields = map { { tag => $_, name => $_ } } qw(FNAME LNAME);
my $crm = McCrm->start('main', candidates => 0, demo => { lists => [ map { { name => $_, merge_fields => \@fields } } qw(Customers Donors Press) ] });
my ($node, $sim) = @$crm{qw(node sim)};
my %list = map { $_->{name} => $_->{id} } @{ $crm->{demo}{lists} };

$node->query('CREATE OR REPLACE FUNCTION mailchimp_sync.page_size() RETURNS integer LANGUAGE sql IMMUTABLE AS $$SELECT 3$$');
$crm->ann("SELECT mc_drop_audience('people')");

sub act { my ($list, $name, $action, %more) = @_; return $sim->post('/_sim/act', { list => $list{$list}, email => "$name\@crm.test", action => $action, %more }) }
sub add { my ($list, $name, %more) = @_; return act($list, $name, 'add', merge_fields => { FNAME => ucfirst $name, LNAME => 'X' }, %more) }

# What the module of lists shows of one: name first name status contact, by address.
sub shown
{
	my ($audience, $where) = @_;
	return $crm->rita(sprintf "SELECT string_agg(concat_ws(' ', split_part(email, '\@', 1), first_name, status, source || '/' || contact_key), ', ' ORDER BY email)
		FROM mc_list_member WHERE audience = '%s' AND %s", $audience, $where // 'true');
}

my $after = 0;
sub signals
{
	my $news = $crm->rita("SELECT string_agg(concat_ws(' ', kind, split_part(email, '\@', 1), contact_key, nullif(detail - 'unsubscribed_at' - 'reason', '{}')), ', ' ORDER BY signal_id)
		FROM mc_signals('crm', $after)");
	$after = $crm->rita('SELECT coalesce(max(signal_id), 0) FROM mc_signal');
	return $news;
}

# Requests since the last call that write.
sub writes { return join ', ', map { "$_->{method} $_->{path}" } grep { $_->{method} ne 'GET' } $crm->journal }

# -----------------------------------------------------------------------------------------------------------------
# Chosen lists, and all of them (R82-R84)
# -----------------------------------------------------------------------------------------------------------------

add('Donors', $_) for qw(ada bob cas dan eva fay);
act('Donors', 'bob', 'unsubscribe');
act('Donors', 'cas', 'clean');
act('Donors', 'dan', 'archive');
add('Donors', 'gus', status => 'pending');
add('Press', 'pia');

is($node->error("SELECT mc_pull('donors')", as => 'max') =~ /(42704)/ && $1, '42704', 'there is no such audience');
$crm->ann("SELECT mc_create_audience('donors', 'main', 'Donors', direction => 'pull')");
like($node->error("SELECT mc_pull('donors')", as => 'max'), qr/55000.*mc_sync_audience/s, 'nor can one be pulled that is not switched on');
$crm->journal;
$crm->sync('donors');
is(shown('donors'), 'ada Ada subscribed, bob Bob unsubscribed, cas Cas cleaned, eva Eva subscribed, fay Fay subscribed, gus Gus pending',
	'R83, R84: a chosen list with its members, without a source');
is($crm->rita("SELECT DISTINCT list, list_id = '$list{Donors}' FROM mc_list_member"), 'Donors|t', 'of that list and no other');
my %members = $crm->members($list{Donors});
is($crm->rita('SELECT count(*) FROM mc_list_member WHERE member_id IS NOT NULL'), 6, 'each with its id at Mailchimp');
is($crm->rita("SELECT member_id FROM mc_list_member WHERE email = 'ada\@crm.test'"), $members{'ada@crm.test'}{contact_id}, 'which is that');
is($crm->rita("SELECT merge_fields ->> 'LNAME', foreign_member FROM mc_member WHERE email = 'ada\@crm.test'"), 'X|t', 'and its data');
is($crm->rita("SELECT status FROM mc_member WHERE email = 'dan\@crm.test'"), 'archived', 'who is in the archive is known, too');
is(signals(), '', 'R95: the first import is no signal');
is(writes(), '', 'R82: one way from Mailchimp: nothing is written there');

$crm->ann("SELECT mc_create_audience(name, connection, list_id, direction => 'pull') FROM mc_list WHERE audience IS NULL");
$crm->ann("SELECT mc_sync_audience(audience) FROM mc_list WHERE audience <> 'donors'");
$crm->run;
is($crm->rita("SELECT string_agg(audience, ' ' ORDER BY audience) FROM mc_audience WHERE direction = 'pull'"), 'Customers Press donors', 'R83: or all of them');
is(shown('Press'), 'pia Pia subscribed', 'with their members');

# -----------------------------------------------------------------------------------------------------------------
# What changes (R87, R95)
# -----------------------------------------------------------------------------------------------------------------

sub pull { my ($audience) = @_; $crm->max("SELECT mc_pull('$audience')"); $crm->run }

$crm->later(2);
$crm->run;
$crm->journal;
act('Donors', 'ada', 'edit', merge_fields => { FNAME => 'Adele', LNAME => '' });
act('Donors', 'gus', 'confirm');
act('Donors', 'eva', 'unsubscribe');
act('Donors', 'bob', 'resubscribe');
add('Donors', 'hal');
$crm->later(2);
$crm->run;
is(shown('donors', "first_name = 'Adele'"), '', 'nothing is asked before read_every has passed');
pull('donors');
is(shown('donors'), 'ada Adele subscribed, bob Bob subscribed, cas Cas cleaned, eva Eva unsubscribed, fay Fay subscribed, gus Gus subscribed, hal Hal subscribed',
	'R87: now, when somebody asks');
is(join(', ', sort split /, (?=[a-z])/, signals()), 'profile_updated ada {"changed": ["FNAME", "LNAME"]}, subscribed bob, subscribed gus, subscribed hal, unsubscribed eva',
	'R95: new subscribers, who unsubscribed, changed profiles');
pull('donors');
is(signals(), '', 'each of them once');
act('Donors', 'ada', 'edit', merge_fields => { FNAME => 'Ada' });
$crm->later(660);
$crm->run;
is(signals(), 'profile_updated ada {"changed": ["FNAME"]}', 'by itself every read_every');
is(writes(), '', 'and nothing is written there');

# -----------------------------------------------------------------------------------------------------------------
# Another address, and none any more
# -----------------------------------------------------------------------------------------------------------------

my $id = $crm->rita("SELECT member_id FROM mc_list_member WHERE email = 'ada\@crm.test'");
$crm->max("SELECT mc_opt_out_email('fay\@crm.test')");
$crm->run;
is(writes(), 'PATCH /lists/' . "$list{Donors}/members/" . $members{'fay@crm.test'}{id}, 'D12: an opt-out of a member is carried');
act('Donors', 'ada', 'change_email', new_email => 'ada.new@crm.test');
act('Donors', 'fay', 'change_email', new_email => 'fay.new@crm.test');
# three change places
act('Donors', $_->[0], 'change_email', new_email => "$_->[1]\@crm.test") for [qw(hal tmp)], [qw(gus hal)], [qw(bob gus)], [qw(tmp bob)];
$crm->later(2);
pull('donors');
is(shown('donors', "first_name NOT IN ('Cas', 'Eva')"), 'ada.new Ada subscribed, bob Hal subscribed, fay.new Fay unsubscribed, gus Bob subscribed, hal Gus subscribed',
	'members move, also to addresses of others');
is($crm->rita("SELECT member_id FROM mc_list_member WHERE email = 'ada.new\@crm.test'"), $id, 'with their ids');
is(join(', ', sort split /, (?=[a-z])/, signals()), join(', ', map({ "profile_updated $_ {\"changed\": [\"email\"]}" } qw(ada.new bob fay.new gus hal))), 'R95: which is told');
is($crm->rita("SELECT string_agg(email, ' ' ORDER BY email) FROM mc_group_member WHERE email LIKE 'fay%'"), 'fay.new@crm.test fay@crm.test', 'D12: an opt-out holds for both addresses');
$crm->journal;

act('Donors', 'eva', 'delete_permanent');
$crm->later(2);
pull('donors');
is(shown('donors', "first_name = 'Eva'"), 'eva Eva unsubscribed', 'what changed does not say who is gone');
$crm->max("SELECT mc_sync_audience('donors')");
$crm->run;
is(shown('donors', "first_name = 'Eva'"), '', 'a walk through all members does');
is(join(', ', map { "$_->{route} $_->{status}" } grep { $_->{route} =~ /hash/ } $crm->journal), 'GET /lists/{list_id}/members/{subscriber_hash} 404', 'who was not shown is looked for by name');
act('Donors', 'hal', 'delete_permanent');
$crm->later(86400);
$crm->run;
is(shown('donors', "first_name = 'Gus'"), '', 'R86: which is done on "every" by itself');
is($node->query('SELECT count(*) FROM mailchimp_sync.member WHERE look_at IS NOT NULL'), 0, 'nobody is looked for any longer');

# -----------------------------------------------------------------------------------------------------------------
# Erased persons stay away, whatever is shown
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("SELECT mc_erase_contact('pia\@crm.test')");
$crm->run;
act('Press', 'pia', 'resubscribe', merge_fields => { FNAME => 'Pia' });
$crm->later(2);
pull('Press');
is(shown('Press'), '', 'not as a new subscriber');
$crm->max("SELECT mc_sync_audience('Press')");
$crm->run;
is($crm->rita("SELECT count(*) FROM mc_member WHERE audience = 'Press'") . signals(), '0', 'nor by a walk, nor as a signal');

# -----------------------------------------------------------------------------------------------------------------
# Contacts of the CRM, in both directions
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(q{SELECT mc_drop_audience('Customers'); INSERT INTO crm.candidate SELECT g, 'F' || g, 'L' || g, 'c' || g || '@crm.test', 1, true, true, '{}' FROM generate_series(1, 4) g});
$crm->define(q{'{"FNAME": "first_name", "LNAME": "last_name"}'}, q{linked => 'linked'});
add('Customers', $_) for qw(kim lea c4);
add('Customers', 'mo', status => 'unsubscribed');
$crm->max("SELECT mc_opt_out_email('lea\@crm.test')");
$crm->run;
$crm->ann("SELECT mc_create_audience('Customers', 'main', 'Customers', 'candidate', 'id < 4', direction => 'both')");
$crm->sync('Customers');
is(shown('Customers'), 'c1 F1 subscribed candidate/1, c2 F2 subscribed candidate/2, c3 F3 subscribed candidate/3, c4 C4 subscribed, kim Kim subscribed, '
	. 'lea Lea unsubscribed, mo X unsubscribed' =~ s/mo X/mo Mo/r, 'R89: members with the contact that each is; an opt-out from before is carried');
$crm->max("SELECT mc_add_member('Customers', 'candidate', 4)");
$crm->run;
is(shown('Customers', "email LIKE 'c4%'"), 'c4 F4 subscribed candidate/4', 'R89: and some are added by hand');
$crm->later(2);
pull('Customers');
is(signals(), '', 'R95: what we did ourselves is no signal');
act('Customers', 'c1', 'edit', merge_fields => { FNAME => 'edited' });
act('Customers', 'kim', 'unsubscribe');
$crm->later(2);
pull('Customers');
like(signals(), qr/profile_updated c1 1 \{"changed": \["FNAME"\]\}/, 'R95: what somebody else did is');

# whoever comes to a member who has unsubscribed has opted out, once
$crm->ann(q{INSERT INTO crm.candidate VALUES (0, 'Mo', 'Mo', 'mo@crm.test', 1)});
$crm->run;
is($crm->rita("SELECT state, mc_is_opted_out('candidate', 0) FROM mc_contact_state WHERE contact_key = '0'"), 'opted_out|t', 'D11: known before anything is pushed');
$crm->max("SELECT mc_opt_in('candidate', 0)");
$crm->ann(q{UPDATE crm.candidate SET first_name = 'Moses' WHERE id = 0});
$crm->run;
is($crm->rita("SELECT state, mc_is_opted_out('candidate', 0) FROM mc_contact_state WHERE contact_key = '0'"), 'inactive|f', 'D12: and not again, when somebody lets it in');
is($crm->member('mo@crm.test')->{status}, 'unsubscribed', 'D10: which subscribes nobody');

# a page that was asked for before our push ended shows what was before it
my $members = '^/lists/[^/]+/members$';
$crm->later(2);
$crm->run;
signals();
my $session = $node->session(as => 'max');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->ann("UPDATE crm.candidate SET first_name = 'ours', last_name = 'ours' WHERE id = 2");
McTest::begin($session, 'CALL mc_run();');
my ($push) = $sim->wait_held;
$sim->hold(method => 'GET', path => $members, when => 'after', times => -1);
act('Customers', 'c2', 'edit', merge_fields => { LNAME => 'theirs' });
$crm->later(2);
$crm->max("SELECT mc_pull('Customers')");
$sim->wait_held(2);
$sim->release(n => $push->{n});
$node->wait_until("SELECT merge_fields ->> 'FNAME' = 'ours' FROM mc_member WHERE email = 'c2\@crm.test'");
$sim->release;
$session->query('');
is($crm->rita("SELECT merge_fields ->> 'FNAME', merge_fields ->> 'LNAME' FROM mc_member WHERE email = 'c2\@crm.test'"), 'ours|ours', 'it counts for nothing');
is(signals(), '', 'nor does it tell anybody');

# a walk shows how far it is
$sim->hold(method => 'GET', path => $members, when => 'before', nth => 3, times => -1);
$crm->max("SELECT mc_sync_audience('Customers')");
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$node->wait_until("SELECT count(*) = 1 FROM mc_progress WHERE work = 'pull' AND phase = 'members' AND audience = 'Customers' AND done > 0 AND total >= done");
$sim->release;
$session->query('');
is($crm->rita('SELECT count(*) FROM mc_progress'), 0, 'which comes to its end');

# two ways no more: what is shown is what was pushed
$crm->ann(q{SELECT mc_alter_audience('Customers', '{"direction": "push"}')});
$crm->run;
add('Customers', 'nia');
$crm->later(660);
$crm->run;
is(shown('Customers', "first_name = 'Nia'"), '', 'D15: one way only: members of others are left alone');
$crm->ann(q{SELECT mc_alter_audience('Customers', '{"direction": "both"}')});
$crm->run;
is(shown('Customers', "first_name = 'Nia'"), 'nia Nia subscribed', 'and in both they are read again');
is(signals(), '', 'which is a first import');

# a copy of the database reads all of them anew before it goes on, and takes up what happened meanwhile
$session->quit;
$node->query('CREATE DATABASE copy TEMPLATE postgres');
act('Customers', 'nia', 'delete_permanent');
$node->query('SELECT mc_resume()', db => 'copy');
$node->query('CALL mc_run()', db => 'copy');
is($node->query("SELECT count(*) FILTER (WHERE first_name = 'Nia'), count(*) > 5 FROM mc_list_member WHERE audience = 'Customers'", db => 'copy'), '0|t', 'R86: a copy finds who was deleted meanwhile');

$node->stop;
done_testing();
