# What becomes of who leaves, of who unsubscribes at Mailchimp, and whether newcomers are asked first: every policy with
# every other, a list for each pair (R45, R58, R60, R61, R74, R76, R80, R81, D9, D10, D11, D12, D14).

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my @on_leave = qw(archive unsubscribe keep);
my @on_unsubscribe = qw(opt_out inactive ignore);
my @pairs = map { my $leave = $_; map { [ $leave, $_ ] } @on_unsubscribe } @on_leave;
my @asked = ([ 'audience', 1, 0 ], [ 'list', 0, 1 ], [ 'both', 1, 1 ], [ 'neither', 0, 0 ]);
my $crm = McCrm->start('main', candidates => 30, demo => { lists => [ { name => 'Customers' },
	map({ { name => "$_->[0] $_->[1]" } } @pairs), map({ { name => "asked by $_->[0]", double_optin => $_->[2] ? JSON::PP::true : JSON::PP::false } } @asked) ] });
my ($node, $sim) = @$crm{qw(node sim)};
my %list = map { $_->{name} => $_->{id} } @{ $crm->{demo}{lists} };

$crm->ann(join ';', "SELECT mc_drop_audience('people')", "DELETE FROM crm.candidate WHERE id > 20",
	map { "SELECT mc_create_audience('$_->[0] $_->[1]', 'main', '$_->[0] $_->[1]', 'candidate', 'active', on_leave => '$_->[0]', on_unsubscribe => '$_->[1]');
		SELECT mc_sync_audience('$_->[0] $_->[1]')" } @pairs);
$crm->run;
$crm->requests;

sub act { my ($list, $id, $action, %more) = @_; $sim->post('/_sim/act', { list => $list{$list}, email => "c$id\@crm.test", action => $action, %more }) }
sub look_there { $crm->later(660); $crm->run; $crm->requests }
sub set { my ($values, @ids) = @_; $crm->ann("UPDATE crm.candidate SET $values WHERE id IN (" . join(',', @ids) . ')'); $crm->run }

# For each pair what Mailchimp has and what we say of a contact: status|first name|state|detail
sub of
{
	my ($id, @names) = @_;
	my %said = map { my ($audience, $rest) = split /\|/, $_, 2; ($audience => $rest) }
	  split /\n/, $crm->rita("SELECT audience, state, detail FROM mc_contact_state WHERE contact_key = '$id'");
	return map { my %m = $crm->members($list{$_}); my $m = $m{"c$id\@crm.test"};
		$_ => join '|', $m->{status} // 'none', $m->{merge_fields}{FNAME} // '', $said{$_} // 'none' } @names ? @names : map { "@$_" } @pairs;
}

# Compares that with what is expected, a function of the two policies.
sub each_pair
{
	my ($id, $expected, $what) = @_;
	my %is = of($id);
	is_deeply(\%is, { map { ("@$_" => $expected->(@$_)) } @pairs }, $what);
}

sub group { return $crm->rita("SELECT coalesce(string_agg(contact_key, ' ' ORDER BY contact_key::integer), '') FROM mc_group_member") }

# -----------------------------------------------------------------------------------------------------------------
# Leaving and coming back (R58, R74, D9)
# -----------------------------------------------------------------------------------------------------------------

my %left = (archive => 'archived', unsubscribe => 'unsubscribed', keep => 'subscribed');
set('active = false', 11);
each_pair(11, sub { "$left{$_[0]}|F11|outside|the rule does not take it" }, 'D9: who leaves');
is(join("\n", sort split /, /, $crm->requests), join("\n", ('DELETE /lists/{list_id}/members/{subscriber_hash} 204') x 3, ('PATCH /lists/{list_id}/members/{subscriber_hash} 200') x 3), 'R74: by one request each, and none with keep');
set("first_name = 'Unseen'", 11);
is($crm->requests, '', 'whose data are nobody\'s business then');
look_there();
is(group(), '', 'our own unsubscribing is nobody\'s opt-out');
each_pair(11, sub { "$left{$_[0]}|F11|outside|the rule does not take it" }, 'and changes nothing when it is read');
set("active = true, first_name = 'Back'", 11);
each_pair(11, sub { $_[0] ne 'unsubscribe' ? 'subscribed|Back|in_sync|'
	: $_[1] eq 'ignore' ? 'unsubscribed|Back|in_sync|unsubscribed at Mailchimp' : 'unsubscribed|F11|inactive|unsubscribed at Mailchimp' }, 'D10: who comes back');
is(group(), '', 'and nobody has opted out');

# Put out by hand, or with the link flag off, they leave in the same way (R57, R77).
$crm->max(join ';', map { "SELECT mc_remove_member('@$_', 'candidate', 12)" } @pairs);
set('linked = false', 13);
each_pair(12, sub { "$left{$_[0]}|F12|inactive|removed by hand" }, 'R77: removed by hand');
each_pair(13, sub { "$left{$_[0]}|F13|not_linked|its link flag is off" }, 'R57: the link flag');
$crm->ann(join ';', map { "SELECT mc_alter_audience('keep $_', '{\"on_leave\": \"archive\"}')" } @on_unsubscribe);
$crm->run;
is_deeply({ of(12, map { "keep $_" } @on_unsubscribe) }, { map { ("keep $_" => 'archived|F12|inactive|removed by hand') } @on_unsubscribe }, 'a changed policy is for who left before, too');
$crm->ann(join ';', map { "SELECT mc_alter_audience('keep $_', '{\"on_leave\": \"keep\"}')" } @on_unsubscribe);
$crm->run;
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Unsubscribing at Mailchimp (R45, R61, R76, D11): contact n does at list n, by their own hand or a colleague's
# -----------------------------------------------------------------------------------------------------------------

my @n = map { [ $_ + 1, @{ $pairs[$_] } ] } 0 .. $#pairs;
act("$_->[1] $_->[2]", $_->[0], $_->[0] % 2 ? 'unsubscribe' : 'admin_unsubscribe') for @n;
look_there();

# Of contact n at list n, and at the others.
sub each_n
{
	my ($expected, $elsewhere, $what) = @_;
	my (%is, %should);
	for (@n)
	{
		my ($n, $leave, $unsubscribe) = @$_;
		my %all = of($n);
		$is{"$leave $unsubscribe"} = delete $all{"$leave $unsubscribe"};
		$should{"$leave $unsubscribe"} = $expected->($n, $leave, $unsubscribe);
		my %seen;
		$seen{$_}++ for values %all;
		$is{"$leave $unsubscribe elsewhere"} = join ', ', sort keys %seen;
		$should{"$leave $unsubscribe elsewhere"} = $elsewhere->($n, $unsubscribe);
	}
	is_deeply(\%is, \%should, $what);
}

my $state = sub { my ($n, $policy) = @_; return $policy eq 'opt_out' ? 'opted_out|is in the opt-out group' : $policy eq 'inactive' ? 'inactive|unsubscribed at Mailchimp' : 'in_sync|unsubscribed at Mailchimp' };
my $elsewhere = sub { my ($n, $policy, $name) = @_; return $policy eq 'opt_out' ? "unsubscribed|F$n|opted_out|is in the opt-out group" : 'subscribed|' . ($name // "F$n") . '|in_sync|' };
each_n(sub { my ($n, $leave, $policy) = @_; "unsubscribed|F$n|" . $state->($n, $policy) }, $elsewhere, 'D11: who unsubscribes at Mailchimp; with ignore that is seen and no more (R61)');
is(group(), '1 4 7', 'R45, D12: with opt_out they join the group, and are unsubscribed everywhere');
is($crm->ann('SELECT count(*) FROM crm.candidate WHERE active AND linked'), 19, 'R76: the records stay as they are');

# The CRM leads (R60): what changes there is sent as far as anybody is to get it, nothing comes back.
set("first_name = 'Changed'", 1 .. 9);
each_n(sub { my ($n, $leave, $policy) = @_; 'unsubscribed|' . ($policy eq 'ignore' ? 'Changed' : "F$n") . '|' . $state->($n, $policy) },
	sub { $elsewhere->(@_, 'Changed') }, 'R81: nobody is subscribed by a change');

# Out and in again: by no policy is anybody subscribed who unsubscribed.
set('active = false', 1 .. 9);
$crm->requests;
set("active = true, first_name = 'Again'", 1 .. 9);
my %again = map { my ($n, $leave, $policy) = @$_; my %all = of($n); ("$leave $policy" => $all{"$leave $policy"}) } @n;
is_deeply(\%again, { map { my ($n, $leave, $policy) = @$_; ("$leave $policy" => 'unsubscribed|' . ($policy eq 'ignore' ? 'Again' : "F$n") . '|' . $state->($n, $policy)) } @n }, 'D10: nor by leaving and coming back');
is(group(), '1 4 7', 'the group is as it was');

# By hand in ignore (R61), by another policy later.
$crm->max("SELECT mc_opt_out('candidate', 3)");
$crm->ann(join ';', map { "SELECT mc_alter_audience('$_ ignore', '{\"on_unsubscribe\": \"inactive\"}')" } @on_leave);
$crm->run;
my %six = of(6);
is($six{'unsubscribe ignore'}, 'unsubscribed|Again|inactive|unsubscribed at Mailchimp', 'a changed policy: who had unsubscribed is inactive');
is(group(), '1 3 4 7', 'R61: and an opt-out by hand is one');
my %three = of(3);
is(scalar(grep { /^unsubscribed\|.*\|opted_out/ } values %three), 9, 'D12: everywhere');
$crm->requests;

# Bounced away, archived by hand or complained, whatever the policy.
act('archive inactive', 14, 'clean');
act('archive inactive', 15, 'archive');
act('archive inactive', 16, 'abuse');
act('archive opt_out', 17, 'abuse');
look_there();
set("first_name = 'Changed'", 14 .. 17);
is_deeply([ map { my %all = of($_, 'archive inactive'); values %all } 14 .. 16 ],
	[ 'cleaned|F14|inactive|cleaned at Mailchimp', 'archived|F15|inactive|archived at Mailchimp', 'unsubscribed|F16|inactive|unsubscribed at Mailchimp' ], 'bounced, archived there, complained: inactive');
is(group(), '1 3 4 7 17', 'who complained has unsubscribed');

# -----------------------------------------------------------------------------------------------------------------
# Asked first (R80): by the audience or by the list
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("DELETE FROM crm.candidate WHERE id > 10; UPDATE crm.candidate SET active = false");
$crm->run;
$crm->ann(join ';', map { "SELECT mc_create_audience('asked by $_->[0]', 'main', 'asked by $_->[0]', 'candidate', 'active', double_opt_in => " . ($_->[1] ? 'true' : 'false') . ")" } @asked);
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) SELECT g, 'F' || g, 'c' || g || '\@crm.test' FROM generate_series(21, 24) g");
$crm->max(join ';', map { "SELECT mc_sync_audience('asked by $_->[0]')" } @asked);
$crm->run;

sub confirmations { my $mails = $sim->get('/_sim/mails')->{confirmations}; my %n; $n{$_->{list}}++ for @$mails; return join ' ', map { $n{ $list{"asked by $_->[0]"} } // 0 } @asked }
sub asked { my ($id) = @_; my %all = of($id, map { "asked by $_->[0]" } @asked); return join ' ', map { $all{"asked by $_->[0]"} } @asked }

is(asked(21), 'pending|F21|in_sync| pending|F21|in_sync| pending|F21|in_sync| subscribed|F21|in_sync|', 'who is asked is pending');
is(confirmations(), '4 4 4 0', 'R80: by one mail of Mailchimp each, and by default nobody is');
is($crm->rita("SELECT bool_and(active) FROM mc_member WHERE audience LIKE 'asked by%'"), 't', 'R76: active is who is subscribed or may become so');
set("first_name = 'Changed'", 21 .. 24);
is(asked(22), 'pending|Changed|in_sync| pending|Changed|in_sync| pending|Changed|in_sync| subscribed|Changed|in_sync|', 'changes are sent while it is pending');
act("asked by $_->[0]", 21, 'confirm') for @asked[ 0 .. 2 ];
look_there();
is(asked(21) =~ s/\|Changed\|in_sync\|//gr, 'subscribed subscribed subscribed subscribed', 'who confirms is subscribed');
set('active = false', 21, 22);
set('active = true', 21, 22);
is(asked(21) =~ s/\|Changed\|in_sync\|//gr, 'subscribed subscribed subscribed subscribed', 'D10: who had confirmed and comes back is not asked again');
is(asked(22), join(' ', ('archived|Changed|inactive|archived at Mailchimp') x 3) . ' subscribed|Changed|in_sync|', 'D10: who never confirmed does not come back by itself');
is(confirmations(), '4 4 4 0', 'nobody was asked twice');
$crm->ann(q{SELECT mc_alter_audience('asked by audience', '{"double_opt_in": false}'); SELECT mc_alter_audience('asked by neither', '{"double_opt_in": true}')});
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (25, 'F25', 'c25\@crm.test')");
$crm->run;
is(asked(25) =~ s/\|F25\|in_sync\|//gr, 'subscribed pending pending pending', 'changed, it is for who comes then');
is(asked(23) =~ s/\|Changed\|in_sync\|//gr, 'pending pending pending subscribed', 'and not for who is there');

done_testing();
